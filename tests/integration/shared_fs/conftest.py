"""The shared filesystem that these tests run on: started once, a fresh root for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import moosefs as moosefs
from tests.support import servers

_numbers = itertools.count()


@pytest.fixture(scope="session")
def shared() -> Iterator[moosefs.MooseFS]:
    yield from servers.started(moosefs.missing, moosefs.running, "mfs-")


@pytest.fixture
def roots(shared: moosefs.MooseFS) -> tuple[Path, Path]:
    """One root as it is seen through either mount."""
    name = f"root{next(_numbers)}"
    return shared.a / name, shared.b / name
