"""Claims: which job is claimed, holds, lost replies and full disks."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from jobspec.errors import DiskFull, JobNotFound, JobspecError
from jobspec.queue import acquire
from jobspec.queue.queue import Queue
from jobspec.records.base import State
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs
from tests.support.faulty_os import fails_with, faulty, loses_reply
from tests.support.paths import stems
from tests.support.queues import V, W, entries
from tests.support.specs import score_spec


def test_claims_go_by_priority(queue: Queue) -> None:
    low = queue.enqueue(score_spec("low"), priority=10)
    high = queue.enqueue(score_spec("high"), priority=90)
    order = [queue.claim(W), queue.claim(W), queue.claim(W)]
    assert [claim and claim.job for claim in order] == [high.id, low.id, None]


def test_a_claim_is_a_moved_entry_and_a_directory(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    assert (claim.job, claim.attempt, claim.worker) == (job.id, 1, W)
    assert claim.spec == score_spec()
    assert claim.dir.dir == job.paths.attempts / "1"
    assert claim.dir.dir.is_dir()
    assert stems(queue.paths.state(State.RUNNING)) == [claim.entry.name]
    assert claim.held() is True
    assert queue.job(job.id).worker == W


def test_a_job_that_does_not_fit_is_checked_once(queue: Queue) -> None:
    big, small = queue.enqueue(score_spec("big")), queue.enqueue(score_spec("small"))
    asked: list[str] = []

    def fits(spec) -> bool:
        asked.append(spec.name)
        return spec.name == "small"

    for _ in range(3):
        claim = queue.claim(W, fits)
        if claim is not None:
            assert claim.job == small.id
    assert asked.count("big") == 1
    assert queue.job(big.id).state is State.PENDING
    queue.prioritize(big.id, 51)
    queue.claim(W, fits)
    assert asked.count("big") == 2


def test_work_remains_while_something_fits_or_runs(queue: Queue) -> None:
    assert not queue.has_work()
    queue.enqueue(score_spec())
    assert queue.has_work() and not queue.has_work(lambda spec: False)
    claim = Queue(queue.paths.root).claim(W)
    assert claim is not None
    assert queue.has_work(lambda spec: False)
    claim.finish("succeeded")
    assert not queue.has_work()


def test_a_job_that_is_requeued_between_two_listings_is_work(queue: Queue) -> None:
    """Otherwise the last worker of a queue that is being emptied ends, and the job waits."""
    queue.enqueue(score_spec())
    claim = queue.claim(V)
    assert claim is not None
    other = Queue(queue.paths.root)

    def requeued(name: str, args: Sequence[Any], call: Callable[[], Any]) -> Any:
        assert args == (queue.paths.state(State.RUNNING),)
        claim.requeue("preempted")
        return call()

    with faulty(1, requeued, only=frozenset({"listdir"})) as listings:
        assert other.has_work()
    assert listings.fired


def test_the_package_offers_what_programs_need_and_nothing_heavy(queue: Queue) -> None:
    import jobspec

    assert jobspec.Queue is Queue
    assert jobspec.JobSpec is type(score_spec())
    with pytest.raises(AttributeError, match="Nothing"):
        _ = jobspec.Nothing


def test_workers_that_lose_races_spread_over_the_first_few(queue: Queue) -> None:
    for number in range(20):
        queue.enqueue(score_spec(f"j{number:02d}"))
    rivals = [lambda: Queue(queue.paths.root).claim(V)]

    def fits(spec: JobSpec) -> bool:
        if rivals:
            rivals.pop()()  # takes the first job just before this worker does
        return True

    first = set[str]()
    for _ in range(100):
        claim = queue.claim(W, fits)
        assert claim is not None
        first.add(claim.spec.name)
        fs.move_once(
            claim.entry.path(queue.paths),
            queue.paths.state(State.PENDING) / claim.entry.ticket.name,
        )
        shutil.rmtree(claim.dir.dir)
        if len(first) >= 5:
            return
    pytest.fail(f"only {first}")


def test_a_hold_stops_claims_and_nothing_else(queue: Queue) -> None:
    queue.enqueue(score_spec("a"))
    claim = queue.claim(W)
    assert claim is not None
    queue.enqueue(score_spec("b"))
    queue.hold("quota", by="me")
    held = queue.on_hold()
    assert held is not None and (held.reason, held.by) == ("quota", "me")
    assert queue.claim(W) is None
    claim.finish("succeeded")
    queue.release()
    queue.release()
    assert queue.on_hold() is None
    assert queue.claim(W) is not None


def test_a_hold_on_a_full_disk_works_without_its_reason(queue: Queue) -> None:
    queue.enqueue(score_spec())
    with faulty(0, fails_with(errno.ENOSPC), only=frozenset({"write"})):
        queue.hold("disk full")
    assert queue.on_hold() is not None
    assert queue.claim(W) is None


def test_a_claim_survives_a_false_enoent(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    with faulty(0, loses_reply, only=frozenset({"rename"})):
        claim = queue.claim(W)
    assert claim is not None and claim.job == job.id
    assert claim.dir.dir.is_dir()


def test_two_processes_under_one_worker_id_do_not_both_win(queue: Queue) -> None:
    queue.enqueue(score_spec())
    twin = Queue(queue.paths.root)
    first = queue.claim(W)
    assert first is not None
    # What the twin sees if its rename comes second: ENOENT, and "its own" target exists.
    second = first.entry
    pending = queue.paths.state(State.PENDING) / second.ticket.name
    assert not pending.exists()
    assert fs.move_once(pending, second.path(queue.paths))
    assert acquire.complete_claim(queue.paths, second, twin._token, owned=True) is None
    assert first.held() is True
    first.finish("succeeded")


def test_an_unconfirmed_claim_is_completed_by_the_next_call(queue: Queue) -> None:
    job = queue.enqueue(score_spec())

    def moved_but_failed(name: str, args: object, call) -> None:
        call()
        raise OSError(errno.EIO, "no reply at all")

    with (
        faulty(0, moved_but_failed, only=frozenset({"rename"})),
        pytest.raises(OSError, match="no reply"),
    ):
        queue.claim(W)
    claim = queue.claim(W)
    assert claim is not None and (claim.job, claim.attempt) == (job.id, 1)
    claim.finish("succeeded")
    assert entries(queue) == {job.id: ["succeeded"]}


def test_a_claim_on_a_full_disk_leaves_the_job_pending(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    with faulty(0, fails_with(errno.ENOSPC), only=frozenset({"write"})), pytest.raises(DiskFull):
        queue.claim(W)
    assert entries(queue) == {job.id: ["pending"]}
    claim = queue.claim(V)
    assert claim is not None and claim.attempt == 1


def test_a_claim_on_a_disk_that_filled_up_after_its_attempt_began_is_kept(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    shutil.rmtree(job.paths.dir)
    # The first write is for the attempt, the second restores the spec.
    with faulty(1, fails_with(errno.ENOSPC), only=frozenset({"write"})), pytest.raises(DiskFull):
        queue.claim(W)
    assert entries(queue) == {job.id: ["running"]}
    claim = queue.claim(W)
    assert claim is not None and (claim.job, claim.attempt) == (job.id, 1)
    claim.finish("succeeded")


@pytest.mark.parametrize("worker", ["", "UPPER", "a/b", "..", "x" * 81, "a.b"])
def test_worker_ids_that_could_leave_their_directory_are_refused(queue: Queue, worker: str) -> None:
    queue.enqueue(score_spec())
    for call in (queue.claim, queue.heartbeat, queue.retire, queue.drain):
        with pytest.raises(JobspecError, match="is not a worker id"):
            call(worker)


@pytest.mark.parametrize("job", ["../../x", "job", "", "a/b-0123456789"])
def test_jobs_that_could_leave_their_directory_are_refused(queue: Queue, job: str) -> None:
    with pytest.raises(JobspecError):
        queue.heartbeat(W, job=job)
    for call in (queue.cancel, queue.retry):
        with pytest.raises(JobNotFound):
            call(job)


def test_unrelated_file_names_are_ignored(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    pending = queue.paths.state(State.PENDING)
    real = stems(pending)[0]
    strays = [
        ".nfs000000000000001",
        "README",
        real.replace("949-", "٩٤٩-"),  # digits, but not ASCII
        real.replace(".1.json", ".0.json"),
        real.replace(".1.json", ".01.json"),
        real.replace(".1.json", f".1.{W}.json"),
    ]
    for name in strays:
        (pending / name).write_bytes(b"{}")
    assert [each.id for each in queue.jobs()] == [job.id]
    claim = queue.claim(W)
    assert claim is not None and claim.job == job.id
    assert queue.claim(W) is None
    assert stems(pending) == sorted(strays)
