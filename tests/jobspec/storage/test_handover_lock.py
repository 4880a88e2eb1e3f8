"""The lock that one process at a time holds: heartbeats, takeover, the death of its owner."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from jobspec.storage import fs
from jobspec.storage.handover_lock import Fenced, LockHeld, acquire
from tests.support.faulty_os import fork


def test_a_process_that_lost_the_lock_is_fenced(tmp_path: Path) -> None:
    at = tmp_path / "lock"
    with acquire(at, "relay", heartbeat_s=0.02, lease_s=0.1) as first:
        first.heartbeat()
        with acquire(at, "relay", heartbeat_s=0.02, lease_s=0.1) as second:
            # The first sent no heartbeat for a lease.
            second.heartbeat()
            with pytest.raises(Fenced):
                first.heartbeat()
    assert fs.list_dir(at) == ["free"]


def test_heartbeats_keep_the_lock(tmp_path: Path) -> None:
    at = tmp_path / "lock"
    with acquire(at, "relay", heartbeat_s=0.02, lease_s=60.0) as first:
        with pytest.raises(LockHeld, match=f"process {os.getpid()} on"):
            acquire(
                at, "relay", heartbeat_s=0.02, lease_s=60.0, wait=lambda s: first.heartbeat()
            ).__enter__()
        first.heartbeat()


def test_the_lock_of_a_dead_process_on_this_host_is_free_at_once(tmp_path: Path) -> None:
    at = tmp_path / "lock"

    def body() -> None:
        with acquire(at, "relay", heartbeat_s=15.0, lease_s=3600.0):
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(fork(body), 0)
    assert fs.list_dir(at) != ["free"]
    with acquire(at, "relay", heartbeat_s=15.0, lease_s=3600.0) as lock:
        lock.heartbeat()
