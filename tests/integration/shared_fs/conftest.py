"""The shared filesystem that these tests run on: started once, a fresh root for each test."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import moosefs
import pytest

_numbers = itertools.count()


@pytest.fixture(scope="session")
def shared() -> Iterator[moosefs.MooseFS]:
    reason = moosefs.missing()
    if reason is not None:
        pytest.skip(reason)
    with (
        tempfile.TemporaryDirectory(prefix="mfs-", ignore_cleanup_errors=True) as base,
        moosefs.running(Path(base)) as running,
    ):
        yield running


@pytest.fixture
def roots(shared: moosefs.MooseFS) -> tuple[Path, Path]:
    """One root as it is seen through either mount."""
    name = f"root{next(_numbers)}"
    return shared.a / name, shared.b / name
