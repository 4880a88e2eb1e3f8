from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import run_checked
from tests.support.ranks import Forge, forge


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model, rows and benchmark."""
    directory = tmp_path_factory.mktemp("tiny")
    command = [sys.executable, "-m", "worker.demo.tiny_model", str(directory)]
    run_checked(command)
    return directory


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    """Starts the ranks of a file's tests as forks, without further imports."""
    with forge(tmp_path_factory.mktemp("forge")) as running:
        yield running
