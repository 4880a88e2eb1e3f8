"""The races and the outages that only a real network filesystem has."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import soak, soak_faults
from jobspec.queue.claim import Claim
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import Result
from jobspec.records.base import State
from jobspec.spec.identity import canonical
from jobspec.storage import fs
from jobspec.storage.descriptors import ALLOW_GROUP
from tests.support.faulty_os import fork, race, stopped_at
from tests.support.moosefs import MooseFS
from tests.support.queues import entries
from tests.support.specs import score_spec

pytestmark = pytest.mark.shared_fs
W, V = "node1-00000000000000aa", "node2-00000000000000bb"
Roots = tuple[Path, Path]


def claim_all(root: Path, worker: str) -> list[str]:
    queue, claims = Queue(root), list[str]()
    while (claim := queue.claim(worker)) is not None:
        claims.append(claim.job)
    return claims


def claimed(queue: Queue, worker: str = W) -> Claim:
    queue.heartbeat(worker)
    claim = queue.claim(worker)
    assert claim is not None
    queue.heartbeat(worker, job=claim.job)
    return claim


def until(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_eight_processes_on_two_mounts_claim_each_job_once(roots: Roots) -> None:
    queue = Queue.create(roots[0])
    for number in range(200):
        queue.enqueue(score_spec(f"job{number}"))
    workers = [f"w-{number:016x}" for number in range(8)]
    told = race([lambda n=n, w=w: claim_all(roots[n % 2], w) for n, w in enumerate(workers)])
    claims = Counter(job for each in told for job in each)
    assert len(claims) == 200 and set(claims.values()) == {1}
    assert min(len(each) for each in told) > 0


def test_two_nodes_that_enqueue_one_spec_make_one_job(roots: Roots) -> None:
    Queue.create(roots[0])

    def enqueue(root: Path) -> list[tuple[str, bool]]:
        queue = Queue(root)
        jobs = [queue.enqueue(score_spec(f"job{number}")) for number in range(30)]
        return [(job.id, job.already) for job in jobs]

    told = race([lambda n=n: enqueue(roots[n % 2]) for n in range(4)])
    made = Counter(job for each in told for job, already in each if not already)
    assert len(made) == 30 and set(made.values()) == {1}
    assert all(states == ["pending"] for states in entries(Queue(roots[1])).values())


def test_one_worker_id_on_two_nodes_claims_each_job_once(roots: Roots) -> None:
    queue = Queue.create(roots[0])
    for number in range(60):
        queue.enqueue(score_spec(f"job{number}"))
    told = race([lambda n=n: claim_all(roots[n % 2], W) for n in range(4)])
    claims = Counter(job for each in told for job in each)
    assert len(claims) == 60 and set(claims.values()) == {1}


def test_what_one_node_publishes_the_other_sees_whole(roots: Roots) -> None:
    mine, theirs = Queue.create(roots[0]), Queue(roots[1])
    for number in range(30):
        job = mine.enqueue(score_spec(f"job{number}"))
        claim = theirs.claim(V)
        assert claim is not None and claim.job == job.id
        assert claim.entry.path(theirs.paths).read_bytes() == canonical(claim.spec)
        claim.finish("succeeded", {"metrics": {"n": float(number)}})
        result = records.read(job.paths.result, Result)
        assert result is not None and result.metrics == {"n": float(number)}


def test_published_bytes_survive_the_crash_of_their_node(roots: Roots, shared: MooseFS) -> None:
    """Bytes renamed before they had left the client do not: an empty file stays in their place."""
    roots[1].mkdir()
    data = b"x" * 200_000
    for number in range(5):
        with shared.doomed_mount() as (mount, served):
            root = mount / roots[1].name
            fs.publish(root / f"published{number}", data)
            with (root / "temp").open("wb", buffering=0) as naive:
                naive.write(data)
                (root / "temp").rename(root / f"renamed{number}")
                served.kill()
                served.wait()
                with pytest.raises(OSError):
                    os.fsync(naive.fileno())
                with contextlib.suppress(OSError):
                    naive.close()
            assert (roots[1] / f"published{number}").read_bytes() == data
            assert (roots[1] / f"renamed{number}").read_bytes() == b""


def test_a_cancel_on_one_node_is_seen_by_the_worker_on_the_other(roots: Roots) -> None:
    mine, theirs = Queue.create(roots[0]), Queue(roots[1])
    job = mine.enqueue(score_spec())
    claim = claimed(theirs)
    mine.cancel(job.id)
    until(lambda: claim.held() is False, 5)


def test_an_attempt_stopped_anywhere_in_its_commit_spoils_nothing(roots: Roots) -> None:
    queue = Queue.create(roots[0])
    index, second_won, code = 0, 0, 0
    while code is not None:
        job = queue.enqueue(score_spec(f"job{index}"))
        claim = claimed(queue)

        def other(job_id: str = job.id) -> None:
            reaper = Queue(roots[1])
            if reaper.reap(worker=W, now=True) and reaper.job(job_id).state is State.PENDING:
                claimed(reaper, V).finish("succeeded", {"metrics": {"attempt": 2.0}})

        def finish(claim: Claim = claim) -> None:
            claim.finish("succeeded", {"metrics": {"attempt": 1.0}})

        code = stopped_at(index, finish, other)
        found = queue.job(job.id)
        result = records.read(found.paths.result, Result)
        assert found.state is State.SUCCEEDED and len(entries(queue)[job.id]) == 1
        assert result is not None and result.metrics == {"attempt": float(found.attempt)}
        assert code in (None, found.attempt - 1)
        second_won += found.attempt == 2
        index += 1
    assert second_won > 5


def test_nobody_is_reaped_when_the_filesystem_stood_still(roots: Roots, shared: MooseFS) -> None:
    """Its master stops for three leases. Afterwards all workers count as alive."""
    lease_s = 3.0
    mine = Queue.create(roots[0], heartbeat_s=lease_s / 10, lease_s=lease_s)
    mine.enqueue(score_spec())
    claim = claimed(mine)
    stop, reaped, looks = threading.Event(), list[str](), [0]

    def read() -> None:
        theirs = Queue(roots[1])
        while not stop.is_set():
            reaped.extend(theirs.reap())
            looks[0] += 1
            stop.wait(lease_s / 20)

    def send_heartbeat() -> None:
        while not stop.is_set():
            mine.heartbeat(W, job=claim.job)
            stop.wait(lease_s / 10)

    threads = [threading.Thread(target=read), threading.Thread(target=send_heartbeat)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: looks[0] > 5)
        with shared.frozen():
            before = looks[0]
            time.sleep(3 * lease_s)  # an outage has no end to wait for but this
            assert looks[0] <= before + 1
        until(lambda: looks[0] > before + 30)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert reaped == []
    assert claim.held() is True


def test_a_worker_killed_on_one_node_is_reaped_from_the_other(roots: Roots) -> None:
    lease_s = 3.0
    Queue.create(roots[0], heartbeat_s=lease_s / 10, lease_s=lease_s).enqueue(score_spec())
    child = fork(lambda: _send_heartbeats_forever(roots[0]))
    theirs = Queue(roots[1])
    try:
        until(lambda: theirs.jobs(State.RUNNING))
        end = time.monotonic() + 2 * lease_s
        while time.monotonic() < end:
            assert theirs.reap() == []
            time.sleep(lease_s / 20)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    until(lambda: theirs.reap() or time.sleep(lease_s / 20), 10 * lease_s)
    assert theirs.jobs()[0].attempt == 2


def _send_heartbeats_forever(root: Path) -> None:
    queue = Queue(root)
    claim = claimed(queue)
    while True:
        queue.heartbeat(W, job=claim.job)
        time.sleep(queue.format.heartbeat_s)


def test_five_hundred_jobs_under_every_kind_of_fault_are_each_done_once(
    roots: Roots, shared: MooseFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills, stops, deleted directories, failing calls, full disks; two users of one group."""
    monkeypatch.setenv(ALLOW_GROUP, "1")
    shared.base.chmod(0o755)
    plan = soak.Plan(
        roots=roots,
        workers=8,
        jobs=500,
        seconds=60,
        lease_s=2.0,
        work_s=0.1,
        faults_per_s=5.0,
        faults=soak_faults.KINDS,
        group=True,
    )
    figures = soak.run(plan)
    assert figures.good, str(figures)  # as text, it is not shortened
    assert min(figures.kills, figures.stops, figures.deletes, figures.outages, figures.full) > 5
    assert figures.failed_calls > 0
    assert figures.requeues > 0 and figures.fenced > 0
