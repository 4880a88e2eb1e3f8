"""fsck: each missing entry is restored once, and nothing else changes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from jobspec.queue import fsck
from jobspec.queue.queue import Queue
from jobspec.records.attempt import End
from jobspec.records.base import Reason, State
from jobspec.spec.identity import canonical
from jobspec.storage.layout import Ticket
from tests.support.paths import hidden
from tests.support.queues import W, entries
from tests.support.specs import score_spec


def only_entry(queue: Queue) -> Path:
    (path,) = [p for state in State for p in queue.paths.state(state).iterdir()]
    return path


def test_fsck_does_not_change_a_sound_queue(queue: Queue) -> None:
    job = queue.enqueue(score_spec("a"))
    queue.enqueue(score_spec("b"))
    claim = queue.claim(W)
    assert claim is not None
    before = {path: path.lstat().st_mtime_ns for path in queue.paths.root.rglob("*")}
    assert queue.fsck() == fsck.Repairs()
    assert {path: path.lstat().st_mtime_ns for path in queue.paths.root.rglob("*")} == before
    assert claim.held() is True
    assert job.id in entries(queue)


def test_an_interrupted_enqueue_is_finished(queue: Queue) -> None:
    job = queue.enqueue(score_spec(), priority=70)
    entry = only_entry(queue)
    entry.rename(job.paths.ticket)
    assert queue.fsck().completed == [job.id]
    assert only_entry(queue) == entry


def test_a_purged_ticket_is_restored_with_its_priority_and_time(queue: Queue) -> None:
    job = queue.enqueue(score_spec(), priority=70)
    entry = only_entry(queue)
    entry.unlink()
    assert queue.fsck().rebuilt == [job.id]
    assert only_entry(queue) == entry
    assert entry.read_bytes() == canonical(score_spec())


def test_a_ticket_purged_while_its_job_ran_becomes_the_next_attempt(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    only_entry(queue).unlink()
    queue.fsck()
    now = queue.job(job.id)
    assert (now.state, now.attempt) == ("pending", 2)
    assert claim.held() is False


def test_a_ticket_can_be_purged_again_and_again(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    for attempt in range(1, 5):
        only_entry(queue).unlink()
        assert queue.fsck().rebuilt == [job.id]
        assert queue.job(job.id).attempt == attempt
    claim = queue.claim(W)
    assert claim is not None and claim.attempt == 4
    only_entry(queue).unlink()
    queue.fsck()
    assert queue.job(job.id).attempt == 5


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_an_ended_jobs_entry_is_restored_in_its_final_state(queue: Queue, state) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    claim.finish(state, {"metrics": {}} if state == "succeeded" else None)
    entry = only_entry(queue)
    for _ in range(2):
        entry.unlink()
        assert queue.fsck().rebuilt == [job.id]
        assert only_entry(queue) == entry


def test_a_success_without_a_result_is_run_again(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    claim.end(End(reason=Reason.SUCCEEDED))
    claim.dir.result.write_bytes(b'{"job": ')
    only_entry(queue).unlink()
    queue.fsck()
    assert (queue.job(job.id).state, queue.job(job.id).attempt) == ("pending", 2)


def test_a_retried_failure_is_not_failed_again_by_repair(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    claim.finish("failed")
    queue.retry(job.id)
    only_entry(queue).unlink()
    queue.fsck()
    assert (queue.job(job.id).state, queue.job(job.id).attempt) == ("pending", 2)


def test_a_purged_job_directory_is_restored_from_the_ticket(queue: Queue) -> None:
    job = queue.enqueue(score_spec(), priority=33)
    shutil.rmtree(job.paths.dir)
    assert queue.fsck().restored == [job.id]
    assert job.paths.spec.read_bytes() == canonical(score_spec())
    entry = only_entry(queue)
    entry.unlink()
    queue.fsck()
    assert only_entry(queue) == entry


def test_a_job_without_any_good_copy_is_reported(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    only_entry(queue).unlink()
    job.paths.spec.unlink()
    assert queue.fsck().hopeless == [job.id]
    assert entries(queue) == {}


def test_entries_of_earlier_attempts_are_deleted(queue: Queue) -> None:
    """As after a snapshot was rolled back: the later attempt counts."""
    job = queue.enqueue(score_spec())
    entry = only_entry(queue)
    claim = queue.claim(W)
    assert claim is not None
    claim.requeue("preempted")
    shutil.copy(only_entry(queue), entry)
    assert queue.fsck().superseded == [entry.name]
    assert queue.job(job.id).attempt == 2
    assert entries(queue) == {job.id: ["pending"]}


def test_only_temporary_files_of_dead_writers_are_deleted(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    child = os.fork()
    if child == 0:
        from jobspec.storage import tempfiles

        for path in (queue.paths.root / "x", queue.paths.workers / "y", job.paths.dir / "z"):
            tempfiles.beside(path).touch()
        os._exit(0)
    os.waitpid(child, 0)
    unrelated = queue.paths.jobs / ".nfs0001"
    unrelated.touch()
    assert len(queue.fsck().swept) == 3
    assert hidden(queue.paths.root) == [unrelated]


def test_two_repairs_at_once_make_one_entry(queue: Queue, monkeypatch) -> None:
    """The second repair reads before the first one moves, and moves after a worker's claim."""
    job = queue.enqueue(score_spec())
    only_entry(queue).unlink()
    real = fsck._repair
    claims = []

    def overtaken(*args) -> None:
        monkeypatch.setattr(fsck, "_repair", real)
        Queue(queue.paths.root).fsck()
        claims.append(Queue(queue.paths.root).claim(W))
        real(*args)

    monkeypatch.setattr(fsck, "_repair", overtaken)
    queue.fsck()
    assert claims[0] is not None and claims[0].held() is True
    assert entries(queue) == {job.id: ["running"]}


def test_a_repair_during_an_enqueue_makes_one_entry(queue: Queue, monkeypatch) -> None:
    """The ticket is moved, and claimed, just before the repair looks for it."""
    job = queue.enqueue(score_spec())
    only_entry(queue).rename(job.paths.ticket)
    real = fsck._plan

    def overtaken(paths):
        monkeypatch.setattr(fsck, "_plan", real)
        assert Queue(queue.paths.root).enqueue(score_spec()).already
        assert Queue(queue.paths.root).claim(W) is not None
        return real(paths)

    monkeypatch.setattr(fsck, "_plan", overtaken)
    assert queue.fsck().rebuilt == []
    assert entries(queue) == {job.id: ["running"]}


def test_missing_queue_directories_are_made_again(queue: Queue) -> None:
    queue.enqueue(score_spec())
    shutil.rmtree(queue.paths.queue)
    queue.paths.format.unlink()
    again = Queue.create(queue.paths.root)
    assert len(again.fsck().rebuilt) == 1
    assert len(again.jobs("pending")) == 1


def test_an_unknown_enqueue_time_gives_the_same_name_everywhere(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    only_entry(queue).unlink()
    job.paths.enqueue.write_bytes(b"")
    queue.fsck()
    assert only_entry(queue).name == Ticket(949, "19700101T000000000000Z", job.id).name


def test_enqueueing_a_job_whose_directory_was_deleted_makes_no_second_entry(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    shutil.rmtree(job.paths.dir)
    again = Queue(queue.paths.root).enqueue(score_spec())
    assert again.already and again.state is State.RUNNING
    assert entries(queue) == {job.id: ["running"]}
    assert queue.fsck().restored == [job.id]
    assert job.paths.spec.exists()


@pytest.mark.parametrize("state", [State.PENDING, State.RUNNING])
def test_a_second_entry_of_a_job_is_removed(queue: Queue, state: State) -> None:
    """As an earlier version made it when the job's directory had been deleted."""
    job = queue.enqueue(score_spec())
    if state is State.RUNNING:
        assert queue.claim(W) is not None
    (entry,) = queue.paths.state(state).iterdir()
    second = entry.name.split(f".{W}")[0].removesuffix(".json")
    stamp = job.entry.ticket.enqueued
    second = f"{second}.json".replace(stamp, f"{int(stamp[:4]) - 1}{stamp[4:]}")
    (queue.paths.state(State.PENDING) / second).write_bytes(entry.read_bytes())
    assert len(entries(queue)[job.id]) == 2
    assert queue.fsck().superseded == [second]
    assert entries(queue) == {job.id: [state.value]}
