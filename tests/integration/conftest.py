from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model, rows and benchmark."""
    directory = tmp_path_factory.mktemp("tiny")
    command = [sys.executable, "-m", "worker.demo.tiny_model", str(directory)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return directory
