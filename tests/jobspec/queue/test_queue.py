"""Enqueueing, cancelling, retrying, prioritizing and listing jobs in one process."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from jobspec.errors import DiskFull, JobNotFound, JobspecError, TransitionRefused
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.base import State
from jobspec.records.queue_files import Enqueued
from jobspec.spec.identity import canonical
from jobspec.storage import fs
from jobspec.storage.layout import parse_entry
from tests.support.faulty_os import fails_with, faulty
from tests.support.paths import hidden, stems
from tests.support.queues import W, entries
from tests.support.specs import score_spec

# Enqueue


def test_enqueue_writes_the_canonical_bytes_everywhere(queue: Queue) -> None:
    spec = score_spec("Qwen3.8B")
    job = queue.enqueue(spec, priority=60)
    assert (job.state, job.attempt, job.priority, job.already) == ("pending", 1, 60, False)
    assert job.id.startswith("qwen3-8b-")
    assert job.paths.spec.read_bytes() == canonical(spec)
    assert stat.S_IMODE(job.paths.spec.stat().st_mode) == 0o444
    entry = next(queue.paths.state(State.PENDING).iterdir())
    assert entry.read_bytes() == canonical(spec)
    parsed = parse_entry(entry.name)
    assert parsed is not None and parsed[0].job == job.id
    facts = records.read(job.paths.enqueue, Enqueued)
    assert facts is not None and facts.priority == 60
    assert facts.enqueued_at == job.enqueued_at
    assert not job.paths.ticket.exists()
    assert hidden(queue.paths.root) == []


def test_enqueueing_the_same_spec_again_changes_nothing(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    before = entries(queue)
    again = queue.enqueue(score_spec(), priority=99)
    assert again.already and again.id == job.id and again.priority == 50
    assert entries(queue) == before == {job.id: ["pending"]}
    assert hidden(queue.paths.root) == []


def test_enqueue_of_an_ended_job_returns_its_state(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    queue.cancel(job.id)
    again = queue.enqueue(score_spec())
    assert again.already and again.state is State.CANCELLED


def test_enqueue_finishes_an_interrupted_enqueue(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    entry = next(queue.paths.state(State.PENDING).iterdir())
    entry.rename(job.paths.ticket)
    again = queue.enqueue(score_spec())
    assert again.already and again.state is State.PENDING
    assert stems(queue.paths.state(State.PENDING)) == [entry.name]


def test_enqueue_rebuilds_a_purged_entry(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    next(queue.paths.state(State.PENDING).iterdir()).unlink()
    again = queue.enqueue(score_spec())
    assert again.already and entries(queue) == {job.id: ["pending"]}


@pytest.mark.parametrize("priority", [-1, 1000])
def test_a_priority_out_of_range_is_refused(queue: Queue, priority: int) -> None:
    with pytest.raises(JobspecError, match="priority"):
        queue.enqueue(score_spec(), priority=priority)
    assert entries(queue) == {}
    job = queue.enqueue(score_spec())
    with pytest.raises(JobspecError, match="priority"):
        queue.prioritize(job.id, priority)
    assert queue.job(job.id).priority == 50


@pytest.mark.parametrize("call", ["mkdir", "write", "fsync"])
def test_enqueue_on_a_full_disk_leaves_no_files(queue: Queue, call: str) -> None:
    with faulty(0, fails_with(errno.ENOSPC), only=frozenset({call})), pytest.raises(DiskFull):
        queue.enqueue(score_spec())
    assert entries(queue) == {}
    assert stems(queue.paths.jobs) == []
    assert hidden(queue.paths.root) == []
    assert not queue.enqueue(score_spec()).already


# Cancel, retry, prioritize


def test_cancel_and_retry_return_the_job(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    assert queue.cancel(job.id).state is State.CANCELLED
    assert queue.claim(W) is None
    back = queue.retry(job.id)
    assert (back.state, back.attempt) == ("pending", 2)
    claim = queue.claim(W)
    assert claim is not None and claim.attempt == 2


def test_impossible_transitions_are_refused(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    with pytest.raises(TransitionRefused, match="is pending"):
        queue.retry(job.id)
    claim = queue.claim(W)
    assert claim is not None
    with pytest.raises(TransitionRefused, match="is running"):
        queue.prioritize(job.id, 1)
    claim.finish("succeeded")
    for call in (queue.cancel, queue.retry):
        with pytest.raises(TransitionRefused, match="is succeeded"):
            call(job.id)


def test_prioritize_renames_the_entry(queue: Queue) -> None:
    first, second = queue.enqueue(score_spec("a")), queue.enqueue(score_spec("b"))
    assert queue.prioritize(second.id, 99).priority == 99
    assert [job.id for job in queue.jobs()] == [second.id, first.id]
    claim = queue.claim(W)
    assert claim is not None and claim.job == second.id


# Listing


def test_jobs_by_state_id_prefix_and_glob(queue: Queue) -> None:
    a1, a2 = queue.enqueue(score_spec("aa-one")), queue.enqueue(score_spec("aa-two"))
    b = queue.enqueue(score_spec("bb"))
    queue.cancel(b.id)
    assert {job.id for job in queue.jobs()} == {a1.id, a2.id, b.id}
    assert [job.id for job in queue.jobs("cancelled")] == [b.id]
    assert queue.job("aa-o").id == queue.job(a1.id).id == a1.id
    assert [job.id for job in queue.select(["aa-*", "aa-two"])] == [a1.id, a2.id]
    assert [job.id for job in queue.select([], "cancelled")] == [b.id]
    assert queue.select(["aa-*"], "cancelled") == []
    for selector in ("aa", "zz"):
        with pytest.raises(JobNotFound):
            queue.job(selector)
    with pytest.raises(JobNotFound):
        queue.select(["zz*"])


def test_a_queue_without_changes_is_scanned_twice(queue: Queue) -> None:
    queue.enqueue(score_spec())
    with faulty(-1, fails_with(0), only=frozenset({"listdir"})) as calls:
        queue.jobs()
    assert calls.count == 2 * len(State)


def test_the_later_of_two_sightings_of_a_job_wins(queue: Queue) -> None:
    """A job that moves during a scan can be seen twice."""
    job = queue.enqueue(score_spec())
    entry = next(queue.paths.state(State.PENDING).iterdir())
    running = queue.paths.state(State.RUNNING) / entry.name.replace(".json", f".{W}.json")
    running.write_bytes(entry.read_bytes())
    assert queue.job(job.id).state is State.RUNNING
    (queue.paths.state(State.PENDING) / entry.name.replace(".1.", ".2.")).write_bytes(b"")
    assert queue.job(job.id).attempt == 2


def test_a_job_that_moves_back_during_a_scan_is_found(queue: Queue, monkeypatch) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    real, moves = fs.list_dir, [lambda: claim.requeue("preempted")]

    def list_then_move(path: Path) -> list[str]:
        names = real(path)
        if path.name == "pending" and moves:
            moves.pop()()  # between reading pending/ and running/
        return names

    monkeypatch.setattr(fs, "list_dir", list_then_move)
    assert [(each.id, each.attempt) for each in queue.jobs()] == [(job.id, 2)]


def test_ten_thousand_finished_jobs_are_listed_by_name_alone(queue: Queue) -> None:
    done = queue.paths.state(State.SUCCEEDED)
    for number in range(10_000):
        (done / f"949-20261122T124057123456Z-job-{number:010x}.1.json").touch()
    reads = frozenset({"open", "read", "stat", "lstat"})
    with faulty(0, fails_with(errno.EIO), only=reads) as fault:
        assert len(queue.jobs()) == 10_000
    assert not fault.fired
