"""The repository, the reference data, and directories that tests look into."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("JOBSPEC_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "math500.jsonl").is_file(),
    reason=f"the reference data is not at {DATA}; $JOBSPEC_TEST_DATA names its directory",
)


@contextlib.contextmanager
def fast_dir() -> Iterator[Path]:
    """A directory in memory if possible, because the tests call fsync thousands of times."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    path = Path(tempfile.mkdtemp(prefix="jobspec-test-", dir=memory if usable else None))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def stems(path: Path) -> list[str]:
    """The names in a directory, including temporary ones."""
    return sorted(each.name for each in path.iterdir())


def hidden(root: Path) -> list[Path]:
    """Temporary files anywhere below the root."""
    return sorted(path for path in root.rglob(".*"))
