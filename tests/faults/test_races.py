"""Races of several processes: each has one winner, and a stopped process loses its claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobspec.errors import ClaimLost, TransitionRefused
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import Result
from jobspec.records.base import State
from tests.support.faulty_os import race, stopped_at
from tests.support.paths import fast_dir
from tests.support.queues import V, W, entries
from tests.support.specs import score_spec


@pytest.fixture
def queue() -> Iterator[Queue]:
    with fast_dir() as path:
        yield Queue.create(path / "root")


def claim_all(root: Path, worker: str) -> list[tuple[str, int]]:
    queue = Queue(root)
    claims = list[tuple[str, int]]()
    while (claim := queue.claim(worker)) is not None:
        claims.append((claim.job, claim.attempt))
    return claims


def test_many_processes_that_enqueue_one_spec_make_one_job(queue: Queue) -> None:
    root = queue.paths.root

    def enqueue() -> list[tuple[str, bool]]:
        own = Queue(root)
        jobs = [own.enqueue(score_spec(f"job{number}")) for number in range(30)]
        return [(job.id, job.already) for job in jobs]

    returned = race([enqueue] * 4)
    assert all([job for job, _ in each] == [job for job, _ in returned[0]] for each in returned)
    made = Counter(job for each in returned for job, already in each if not already)
    assert set(made.values()) == {1} and len(made) == 30
    assert set(entries(queue)) == set(made)
    assert all(states == ["pending"] for states in entries(queue).values())


def test_many_processes_that_create_one_root_create_it_once(queue: Queue) -> None:
    root = queue.paths.root.parent / "other"

    def create() -> str:
        return Queue.create(root).enqueue(score_spec()).id

    assert len(set(race([create] * 4))) == 1
    assert list(entries(Queue(root)).values()) == [["pending"]]


def test_every_job_is_claimed_once_while_others_enqueue(queue: Queue) -> None:
    root = queue.paths.root

    def enqueue() -> list[Any]:
        own = Queue(root)
        for number in range(60):
            own.enqueue(score_spec(f"job{number}"))
        return []

    def work(worker: str) -> list[str]:
        own, done = Queue(root), list[str]()
        while len(Queue(root).jobs(State.SUCCEEDED)) < 60:
            claim = own.claim(worker)
            if claim is not None:
                claim.finish("succeeded", {"metrics": {}})
                done.append(claim.job)
        return done

    done = race([enqueue, enqueue, lambda: work(W), lambda: work(V)])
    assert max(Counter(job for each in done for job in each).values()) == 1
    assert all(states == ["succeeded"] for states in entries(queue).values())


def test_eight_processes_racing_for_two_hundred_jobs_claim_each_once(queue: Queue) -> None:
    for number in range(200):
        queue.enqueue(score_spec(f"job{number}"))
    root = queue.paths.root
    workers = [f"w-{number:016x}" for number in range(8)]
    returned = race([lambda worker=worker: claim_all(root, worker) for worker in workers])
    claims = Counter(job for each in returned for job, _ in each)
    assert len(claims) == 200 and set(claims.values()) == {1}
    holders = {job.id: job.worker for job in queue.jobs(State.RUNNING)}
    assert holders == {
        job: worker for worker, each in zip(workers, returned, strict=True) for job, _ in each
    }


def test_processes_under_one_worker_id_claim_each_job_once(queue: Queue) -> None:
    """Slurm requeues a job with the same name while the old process still runs."""
    for number in range(100):
        queue.enqueue(score_spec(f"job{number}"))
    root = queue.paths.root
    returned = race([lambda: claim_all(root, W)] * 4)
    claims = Counter(job for each in returned for job, _ in each)
    assert len(claims) == 100 and set(claims.values()) == {1}


def test_concurrent_commit_reap_and_cancel_have_one_outcome(queue: Queue) -> None:
    root = queue.paths.root
    jobs = [queue.enqueue(score_spec(f"job{number}")).id for number in range(60)]

    def commit() -> list[str]:
        own = Queue(root)
        claims = [own.claim(W) for _ in jobs]
        (root / "claimed").touch()
        done = list[str]()
        for claim in claims:
            assert claim is not None
            try:
                claim.finish("succeeded", {"metrics": {}})
                done.append(claim.job)
            except ClaimLost:
                assert claim.held() is False
        return done

    def after_the_claims(act: Any) -> list[str]:
        while not (root / "claimed").exists():
            pass
        return act(Queue(root))

    def cancel(own: Queue) -> list[str]:
        cancelled = list[str]()
        for job in reversed(jobs):
            try:
                cancelled.append(own.cancel(job).id)
            except TransitionRefused:
                continue
        return cancelled

    done, reaped, cancelled = race(
        [
            commit,
            lambda: after_the_claims(lambda own: own.reap(worker=W, now=True)),
            lambda: after_the_claims(cancel),
        ]
    )
    by_id = {job.id: job for job in queue.jobs()}
    assert all(len(states) == 1 for states in entries(queue).values())
    assert {job for job in by_id if by_id[job].state is State.SUCCEEDED} == set(done)
    assert {job for job in by_id if by_id[job].state is State.CANCELLED} == set(cancelled)
    assert not set(done) & set(cancelled)
    # A reaper requeues jobs, or commits those that were finished except for the commit.
    again = {job for job in by_id if by_id[job].attempt == 2}
    assert again <= set(reaped) <= again | set(done)


def test_concurrent_repairs_and_claims_make_every_entry_once(queue: Queue) -> None:
    root = queue.paths.root
    for number in range(40):
        queue.enqueue(score_spec(f"job{number}"))
    for path in list(queue.paths.state(State.PENDING).iterdir())[::2]:
        path.unlink()

    def repair() -> list[Any]:
        Queue(root).fsck()
        return []

    returned = race([repair, repair, lambda: claim_all(root, W), lambda: claim_all(root, V)])
    returned.append(claim_all(root, W))
    claims = Counter(job for each in returned for job, _ in each)
    assert len(claims) == 40 and set(claims.values()) == {1}
    assert all(states == ["running"] for states in entries(queue).values())


def test_a_scan_while_jobs_move_sees_every_job_once(queue: Queue) -> None:
    root = queue.paths.root
    jobs = {queue.enqueue(score_spec(f"job{number}")).id for number in range(20)}

    def move(worker: str) -> list[Any]:
        own = Queue(root)
        for _ in range(250):
            claim = own.claim(worker)
            if claim is not None:
                claim.requeue("disk")  # this reason has no budget
        (root / worker).touch()
        return []

    def read() -> list[Any]:
        wrong = list[Any]()
        while not ((root / W).exists() and (root / V).exists()):
            ids = [job.id for job in Queue(root).jobs()]
            if sorted(ids) != sorted(jobs):
                wrong.append(sorted(jobs ^ set(ids)))
        return wrong

    assert race([lambda: move(W), lambda: move(V), read])[2] == []


def test_an_attempt_stopped_during_its_commit_either_commits_or_loses_its_claim(
    queue: Queue,
) -> None:
    """SIGSTOP in the middle of `finish`; the job is reaped and run by another worker; SIGCONT."""
    index, first_won, second_won, code = 0, 0, 0, 0
    while code is not None:
        job = queue.enqueue(score_spec(f"job{index}"))
        claim = queue.claim(W)
        assert claim is not None
        claim.dir.final_model.mkdir()

        def other(job_id: str = job.id) -> None:
            reaper = Queue(queue.paths.root)
            if reaper.reap(worker=W, now=True) and reaper.job(job_id).state is State.PENDING:
                second = reaper.claim(V)
                assert second is not None and second.attempt == 2
                second.dir.final_model.mkdir()
                second.finish("succeeded", {"metrics": {"attempt": 2.0}})

        def finish(claim=claim) -> None:
            claim.finish("succeeded", {"metrics": {"attempt": 1.0}})

        code = stopped_at(index, finish, other)
        ended = queue.job(job.id)
        result = records.read(ended.paths.result, Result)
        assert ended.state is State.SUCCEEDED and len(entries(queue)[job.id]) == 1
        assert result is not None and result.metrics == {"attempt": float(ended.attempt)}
        assert str(ended.paths.final_model.readlink()) == f"attempts/{ended.attempt}/final_model"
        assert code in (None, ended.attempt - 1), "a fenced attempt reported a commit"
        first_won += ended.attempt == 1
        second_won += ended.attempt == 2
        index += 1
    assert first_won > 1 and second_won > 5


def test_a_claim_stopped_at_any_call_is_claimed_by_one_worker(queue: Queue) -> None:
    """SIGSTOP in the middle of `claim`; another worker claims the job if it can; SIGCONT."""
    index, code = 0, 0
    while code is not None:
        root = queue.paths.root / "worlds" / str(index)
        own = Queue.create(root)
        job = own.enqueue(score_spec())
        claims = list[Any]()

        def claim(root: Path = root) -> None:
            claimed = Queue(root).claim(W)
            (root / f"claimed-{0 if claimed is None else claimed.attempt}").touch()

        def other(root: Path = root, claims: list[Any] = claims) -> None:
            queue = Queue(root)
            claims.append(queue.claim(V))
            if claims == [None] and queue.reap(worker=W, now=True):
                claims.append(queue.claim(V))

        code = stopped_at(index, claim, other)
        (marker,) = root.glob("claimed-*")
        held = [each for each in claims if each is not None]
        ended = own.job(job.id)
        assert ended.state is State.RUNNING and len(entries(own)[job.id]) == 1
        assert ended.worker == (V if held else W)
        if held and marker.name != "claimed-0":
            # It may have returned attempt 1, which is fenced off by attempt 2.
            assert marker.name == "claimed-1" and held[0].attempt == 2
        index += 1
    assert index > 10
