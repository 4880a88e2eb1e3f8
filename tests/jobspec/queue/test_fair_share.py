"""The order among several users, and their limits: records of real jobs, one process per user."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from jobspec.queue import enqueue, fair_share
from jobspec.queue.fair_share import FairShare
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import ClaimRecord, End
from jobspec.records.base import Reason
from jobspec.storage import fs
from tests.support.commands import jobspec, jobspec_json
from tests.support.faulty_os import fork
from tests.support.queues import queue_at, send_heartbeat
from tests.support.specs import score_spec


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return queue_at(tmp_path)


class As:
    """Enqueues as another user."""

    def __init__(self, queue: Queue, patch: pytest.MonkeyPatch) -> None:
        self._queue, self._patch, self._number = queue, patch, 0

    def __call__(self, user: str, priority: int = 50) -> Job:
        self._patch.setattr(enqueue, "current_user", lambda: user)
        self._number += 1
        return self._queue.enqueue(score_spec(f"{user}-{self._number}"), priority)


@pytest.fixture
def as_user(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> As:
    return As(queue, monkeypatch)


def worker(number: int) -> str:
    return f"node{number}-00000000000000aa"


def claims(queue: Queue, count: int) -> list[str]:
    """The users of the next jobs that are claimed, each by another worker."""
    users: list[str] = []
    for _ in range(count):
        claim = Queue(queue.paths.root).claim(worker(len(queue.jobs("running"))))
        if claim is None:
            break
        users.append(queue.job(claim.job).user or "")
    return users


def ran(queue: Queue, job: Job, hours: float, *, days_ago: float = 0.0, gpus: int = 8) -> None:
    """Let a job succeed after some hours on some GPUs."""
    claim = queue.claim(worker(99), now=lambda ticket: ticket.job == job.id)
    assert claim is not None and claim.job == job.id
    end = datetime.now(UTC) - timedelta(days=days_ago)
    times = [time.isoformat() for time in (end - timedelta(hours=hours), end)]
    claimed = ClaimRecord(worker=worker(99), host="h", claimed_at=times[0])
    fs.publish(claim.dir.claim, records.encode(claimed))
    device = {"kind": "cuda" if gpus else "cpu", "count": gpus}
    fs.publish(claim.dir.manifest, msgspec.json.encode({"device": device}))
    claim.end(End(reason=Reason.SUCCEEDED, started_at=times[0], ended_at=times[1]))
    claim.finish("succeeded", {"metrics": {}})


def test_one_user_gets_the_oldest_first_and_costs_nothing(
    queue: Queue, as_user: As, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [as_user("ada") for _ in range(3)]
    ran(queue, jobs[0], 10)
    monkeypatch.setattr(FairShare, "user", None)  # what reads a file per job
    monkeypatch.setattr(FairShare, "_sum_gpu_hours", None)
    other = Queue(queue.paths.root)
    taken = [other.claim(worker(number)) for number in range(2)]
    assert [claim.job for claim in taken if claim] == [job.id for job in jobs[1:]]


def test_the_user_with_the_fewest_gpu_hours_comes_first(queue: Queue, as_user: As) -> None:
    ran(queue, as_user("ada"), 15)
    ran(queue, as_user("bob"), 2)
    first, *_ = [as_user("ada"), as_user("ada"), as_user("bob"), as_user("eve")]
    as_user("ada", priority=60)
    row = next(
        row
        for row in jobspec_json("status", "--root", queue.paths.root)["jobs"]
        if row["job"] == first.id
    )
    assert row["waits_for"] == "behind bob: ada used 120 GPU-hours this week, bob 16"
    assert claims(queue, 9) == ["ada", "eve", "bob", "ada", "ada"]


@pytest.mark.parametrize(("days_ago", "gpus"), [(8.0, 8), (0.0, 0)])
def test_older_hours_and_hours_without_gpus_do_not_count(
    queue: Queue, as_user: As, days_ago: float, gpus: int
) -> None:
    ran(queue, as_user("ada"), 15, days_ago=days_ago, gpus=gpus)
    for user in ("ada", "bob"):
        as_user(user)
    assert claims(queue, 9) == ["ada", "bob"]


def test_hours_of_attempts_that_were_lost_or_still_run_count(queue: Queue, as_user: As) -> None:
    job = as_user("ada")
    claim = queue.claim(worker(1))
    assert claim is not None
    began = (datetime.now(UTC) - timedelta(hours=5)).isoformat()
    fs.publish(claim.dir.claim, records.encode(ClaimRecord(worker=worker(1), claimed_at=began)))
    fs.publish(claim.dir.manifest, b'{"device": {"kind": "cuda", "count": 4}}')
    as_user("bob")
    share = FairShare(queue.paths)
    share.refresh()
    assert share.gpu_hours["ada"] == pytest.approx(20, rel=0.01)
    end = End(reason=Reason.PREEMPTED, started_at=began, ended_at=records.utc_now())
    claim.end(end)
    claim.requeue("preempted")
    assert queue.job(job.id).attempt == 2
    share = FairShare(queue.paths)
    share.refresh()
    assert share.gpu_hours["ada"] == pytest.approx(20, rel=0.01)


def test_what_one_worker_read_others_take_from_its_cache(
    queue: Queue, as_user: As, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_share, "_WORTH_SHARING", 2)
    for days in (1.0, 9.0):
        ran(queue, as_user("ada"), 2, days_ago=days)
    as_user("bob")
    first = FairShare(queue.paths)
    first.refresh()
    monkeypatch.setattr(FairShare, "_usage", None)
    second = FairShare(queue.paths)
    second.refresh()
    assert first.gpu_hours == second.gpu_hours == {"ada": 16.0}
    queue.paths.usage.write_bytes(b"{torn")
    monkeypatch.undo()
    third = FairShare(queue.paths)
    third.refresh()
    assert third.gpu_hours == {"ada": 16.0}


def test_a_user_at_the_limit_waits_and_status_says_so(queue: Queue, as_user: As) -> None:
    jobs = [as_user("ada") for _ in range(4)] + [as_user("bob")]
    root = ("--root", queue.paths.root)
    assert "at most 2 running jobs" in jobspec("limit", "2", *root).stdout
    assert claims(queue, 9) == ["ada", "ada", "bob"]
    row = next(row for row in jobspec_json("status", *root)["jobs"] if row["job"] == jobs[2].id)
    assert row["waits_for"] == "waits: ada has 2 of 2 jobs running"
    shown = jobspec_json("limit", "3", "--user", "ada", *root)
    assert shown == {"schema": 1, "running": 2, "users": {"ada": 3}} == jobspec_json("limit", *root)
    assert claims(queue, 9) == ["ada"]
    jobspec("limit", "none", "--user", "ada", *root)
    jobspec("limit", "none", *root)
    assert claims(queue, 9) == ["ada"]
    assert "neither a number" in jobspec("limit", "x", *root, code=2).stderr


def test_a_limit_of_zero_lets_nothing_start(queue: Queue, as_user: As) -> None:
    as_user("ada")
    fair_share.write_limit(queue.paths, None, 0)
    assert claims(queue, 1) == []
    assert queue.jobs()[0].state == "pending" and queue.jobs()[0].attempt == 1


def test_a_limit_of_one_user_finds_the_others_job_behind_many(queue: Queue, as_user: As) -> None:
    for _ in range(40):
        as_user("ada")
    as_user("bob")
    fair_share.write_limit(queue.paths, "ada", 1)
    assert claims(queue, 9) == ["ada", "bob"]


def test_workers_that_claim_at_once_stay_within_the_limit(queue: Queue, as_user: As) -> None:
    for _ in range(12):
        as_user("ada")
    fair_share.write_limit(queue.paths, None, 3)
    go = queue.paths.root / "go"

    def claim(number: int) -> None:
        mine = Queue(queue.paths.root)
        while not go.exists():
            pass
        for _ in range(20):
            send_heartbeat(mine, worker(number), None)
            if mine.claim(worker(number)) is not None:
                return

    children = [fork(lambda number=number: claim(number)) for number in range(8)]
    go.touch()
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    states = [job.state.value for job in queue.jobs()]
    assert 1 <= states.count("running") <= 3
    assert len(states) == 12 and set(states) == {"running", "pending"}
    assert all(job.attempt == 1 for job in queue.jobs())
