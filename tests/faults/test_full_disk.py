"""A full disk: no partial files, heartbeats continue, and work continues once there is space."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobspec.errors import DiskFull
from jobspec.queue.queue import Queue
from jobspec.records.worker import WorkerRecord
from tests.support.paths import hidden
from tests.support.queues import V, W, entries
from tests.support.specs import score_spec


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A separate filesystem of one MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root to mount a small filesystem")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0755", "tmpfs", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("may not mount here")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def fill(path: Path) -> Path:
    ballast = path / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return ballast


def test_a_full_disk_stops_only_writing(small: Path) -> None:
    queue = Queue.create(small / "root")
    waiting = queue.enqueue(score_spec("waiting")).id
    queue.heartbeat(W, WorkerRecord(worker=W, note="before"))
    running = queue.enqueue(score_spec("running"), priority=90).id
    claim = queue.claim(W)
    assert claim is not None and claim.job == running
    ballast = fill(small)
    before = entries(queue)

    with pytest.raises(DiskFull):
        queue.enqueue(score_spec("new"))
    with pytest.raises(DiskFull):
        queue.claim(V)
    with pytest.raises(DiskFull):
        claim.finish("succeeded", {"metrics": {}})
    with pytest.raises(DiskFull):
        claim.requeue("disk")
    assert entries(queue) == before == {waiting: ["pending"], running: ["running"]}
    assert [path for path in hidden(small) if path.name.startswith(".tmp-")] == []
    assert claim.held() is True

    counter = {path.name for path in queue.paths.workers.iterdir()}
    queue.heartbeat(W, WorkerRecord(worker=W, note="after"), job=running)
    assert {path.name for path in queue.paths.workers.iterdir()} != counter
    (seen,) = queue.workers()
    assert seen.job == running and seen.record.note == "before"
    queue.hold("disk full")
    assert queue.claim(V) is None

    ballast.unlink()
    queue.release()
    claim.finish("succeeded", {"metrics": {}})
    again = queue.claim(V)
    assert again is not None and (again.job, again.attempt) == (waiting, 1)
    again.finish("succeeded", {"metrics": {}})
    assert not queue.enqueue(score_spec("new")).already


def test_a_full_disk_never_leaves_a_partial_enqueue(small: Path) -> None:
    """With every amount of space from none to enough."""
    queue = Queue.create(small / "root")
    ballast = fill(small)
    freed = 0
    while True:
        try:
            queue.enqueue(score_spec())
            break
        except DiskFull:
            assert entries(queue) == {}
            assert [path for path in hidden(small) if path.name.startswith(".tmp-")] == []
            assert list(queue.paths.jobs.iterdir()) == []
        os.truncate(ballast, ballast.stat().st_size - 4096)
        freed += 1
    assert freed >= 3
    assert all(states == ["pending"] for states in entries(queue).values())
