"""What most unit tests begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobspec.queue.queue import Queue


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    """An empty queue; a file that needs another one defines its own."""
    return Queue.create(tmp_path / "root")
