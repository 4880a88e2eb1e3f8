"""Draining workers, queues on hold and quarantined hosts."""

from __future__ import annotations

import errno

import pytest

from jobspec.errors import JobspecError
from jobspec.queue.queue import Queue
from jobspec.records.worker import WorkerRecord
from tests.support.faulty_os import fails_with, faulty
from tests.support.queues import V, W
from tests.support.specs import score_spec


def test_retire_removes_the_mark_of_a_drain(queue: Queue) -> None:
    queue.heartbeat(W, WorkerRecord(worker=W, host="node1"))
    queue.drain(W)
    assert queue.is_draining(W) and not queue.is_draining(V)
    seen = queue.workers()
    assert [(each.worker, each.record.host, each.draining) for each in seen] == [(W, "node1", True)]
    assert not queue.saw_drain(W)
    queue.reap()
    assert queue.saw_drain(W) and not queue.saw_drain(V)
    queue.retire(W)
    queue.reap()
    assert queue.workers() == [] and not queue.is_draining(W) and not queue.saw_drain(W)


def test_a_hold_is_read_only_if_a_job_could_be_claimed(queue: Queue) -> None:
    assert queue.claim(W) is None  # it reads once a minute whether several users share the queue
    queue.enqueue(score_spec())
    queue.hold("maintenance")
    with faulty(0, fails_with(errno.EIO), only=frozenset({"lstat"})) as fault:
        assert queue.claim(W, fits=lambda spec: False) is None
    assert not fault.fired and not queue.was_held
    assert queue.claim(V) is None and not queue.was_held  # the job that does not fit is remembered
    other = Queue(queue.paths.root)
    assert other.claim(V) is None and other.was_held
    other.release()
    assert other.claim(V) is not None and not other.was_held


def test_quarantine_lists_expires_and_clears(queue: Queue) -> None:
    assert queue.quarantine("node-3.cluster", "no CUDA", 60, by="node1")
    assert queue.quarantine("node4", "ECC", -1)
    marks = queue.quarantined()
    assert {host: mark.reason for host, mark in marks.items()} == {"node-3.cluster": "no CUDA"}
    assert queue.quarantined_host("node-3.cluster") == marks["node-3.cluster"]
    assert all(queue.quarantined_host(host) is None for host in ("node4", "node5", "../x"))
    queue.clear("node-3.cluster")
    assert queue.quarantined_host("node-3.cluster") is None
    assert queue.quarantined() == {}
    with pytest.raises(JobspecError, match="is not a host name"):
        queue.quarantine("../../etc", "x", 1)


def test_suspicions_never_quarantine_more_than_half_of_the_hosts(queue: Queue) -> None:
    for number in range(4):
        worker = f"w-{number:016x}"
        queue.heartbeat(worker, WorkerRecord(worker=worker, host=f"node{number}"))
    followed = [queue.quarantine(f"node{n}", "fast failure", 60, certain=False) for n in range(4)]
    assert followed == [True, True, False, False]
    assert queue.quarantine("node3", "no CUDA", 60)


def test_suspicions_never_stop_the_workers_of_more_than_half_of_the_hosts(queue: Queue) -> None:
    for number in range(4):
        worker = f"w-{number:016x}"
        nodes = (f"other{number}", f"third{number}")
        queue.heartbeat(worker, WorkerRecord(worker=worker, host=f"node{number}", nodes=nodes))
    hosts = ("other0", "third0", "other1", "third1", "other2", "third3", "unknown")
    followed = {host: queue.quarantine(host, "slow", 60, certain=False) for host in hosts}
    assert [host for host in hosts if followed[host]] == ["other0", "third0", "other1", "third1"]


def test_an_unreadable_quarantine_file_counts(queue: Queue) -> None:
    (queue.paths.quarantine / "node9.json").write_bytes(b"")
    assert "node9" in queue.quarantined() and queue.quarantined_host("node9") is not None
