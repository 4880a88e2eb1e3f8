"""`kill -9` at each filesystem call of each transition; then the queue is opened again.

Every job must have exactly one entry (none if its enqueue was killed before it was published), the
transition or its opposite must be possible, all jobs must run to their end, and `fsck` must leave
no temporary files. Nothing is cleaned up by hand.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobspec.queue.claim import Claim
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import End, Result
from jobspec.records.base import FINAL, Reason, State
from jobspec.records.worker import WorkerRecord
from jobspec.spec.identity import canonical
from tests.support.faulty_os import killed_at
from tests.support.paths import fast_dir, hidden
from tests.support.queues import V, W, entries
from tests.support.specs import score_spec


@dataclass
class World:
    """A queue with one pending job, one running, one failed and one succeeded."""

    queue: Queue
    pending: str
    claim: Claim
    failed: str
    succeeded: str


def build(root: Path) -> World:
    queue = Queue.create(root)
    queue.heartbeat(W, WorkerRecord(worker=W))
    ids = dict[str, str]()
    for state in ("failed", "succeeded"):
        ids[state] = queue.enqueue(score_spec(state)).id
        claim = queue.claim(W)
        assert claim is not None
        claim.dir.final_model.mkdir()
        claim.finish(state, {"metrics": {}})  # type: ignore[arg-type] # one of the literals
    queue.enqueue(score_spec("running"))
    claim = queue.claim(W)
    assert claim is not None
    claim.dir.final_model.mkdir()
    pending = queue.enqueue(score_spec("pending")).id
    return World(queue, pending, claim, ids["failed"], ids["succeeded"])


def only(queue: Queue, job: str) -> Path:
    (path,) = [p for state in State for p in queue.paths.state(state).glob(f"*-{job}.*")]
    return path


def purge(world: World, *jobs: str) -> None:
    for job in jobs:
        only(world.queue, job).unlink()


def damage(world: World, *, both: bool) -> None:
    only(world.queue, world.pending).write_bytes(b"{")
    spec = world.queue.paths.job(world.pending).spec
    if both:
        spec.chmod(0o644)
        spec.write_bytes(b"")


def unpublish(world: World) -> None:
    entry = only(world.queue, world.pending)
    entry.rename(world.queue.paths.job(world.pending).ticket)


def exhaust(world: World) -> None:
    """Use up the retry budget of the running job except for one loss."""
    for attempt in range(2, 6):
        world.queue.reap(worker=W, now=True)
        claim = world.queue.claim(W, fits=lambda spec: spec.name == "running")
        assert claim is not None and claim.attempt == attempt
        world.claim = claim


def finished_but_for_the_commit(world: World) -> None:
    world.claim.end(End(reason=Reason.SUCCEEDED))
    world.claim.dir.result.write_bytes(b'{"job": "x", "attempt": 1}')


def nothing(world: World) -> None:
    """Prepare nothing."""


Step = Callable[[World], object]
TRANSITIONS: dict[str, tuple[Step, Step]] = {
    "enqueue": (nothing, lambda w: w.queue.enqueue(score_spec("new"))),
    "enqueue again": (nothing, lambda w: w.queue.enqueue(score_spec("pending"))),
    "enqueue half published": (unpublish, lambda w: w.queue.enqueue(score_spec("pending"))),
    "enqueue purged": (
        lambda w: purge(w, w.pending),
        lambda w: w.queue.enqueue(score_spec("pending")),
    ),
    "claim": (nothing, lambda w: w.queue.claim(V)),
    "claim damaged ticket": (lambda w: damage(w, both=False), lambda w: w.queue.claim(V)),
    "claim corrupt": (lambda w: damage(w, both=True), lambda w: w.queue.claim(V)),
    "claim purged directory": (
        lambda w: shutil.rmtree(w.queue.paths.job(w.pending).dir),
        lambda w: w.queue.claim(V),
    ),
    "end": (nothing, lambda w: w.claim.end(End(reason=Reason.OOM))),
    "finish succeeded": (nothing, lambda w: w.claim.finish("succeeded", {"metrics": {"a": 1.0}})),
    "finish failed": (nothing, lambda w: w.claim.finish("failed")),
    "requeue": (nothing, lambda w: w.claim.requeue("preempted")),
    "requeue the last time": (exhaust, lambda w: w.claim.requeue("lost")),
    "reap": (nothing, lambda w: w.queue.reap(worker=W, now=True)),
    "reap the last time": (exhaust, lambda w: w.queue.reap(worker=W, now=True)),
    "reap a finished attempt": (
        finished_but_for_the_commit,
        lambda w: w.queue.reap(worker=W, now=True),
    ),
    "heartbeat": (nothing, lambda w: w.queue.heartbeat(W, WorkerRecord(worker=W), w.claim.job)),
    "first heartbeat": (nothing, lambda w: w.queue.heartbeat(V, WorkerRecord(worker=V))),
    "retire": (nothing, lambda w: w.queue.retire(W)),
    "cancel pending": (nothing, lambda w: w.queue.cancel(w.pending)),
    "cancel running": (nothing, lambda w: w.queue.cancel(w.claim.job)),
    "retry": (nothing, lambda w: w.queue.retry(w.failed)),
    "prioritize": (nothing, lambda w: w.queue.prioritize(w.pending, 99)),
    "publish links": (nothing, lambda w: w.queue.publish_links(w.succeeded)),
    "hold": (nothing, lambda w: w.queue.hold("disk")),
    "release": (lambda w: w.queue.hold("disk"), lambda w: w.queue.release()),
    "drain": (nothing, lambda w: w.queue.drain(W)),
    "quarantine": (nothing, lambda w: w.queue.quarantine("node1", "ECC", 60)),
    "clear": (
        lambda w: w.queue.quarantine("node1", "ECC", 60),
        lambda w: w.queue.clear("node1"),
    ),
    "fsck sound": (nothing, lambda w: w.queue.fsck()),
    "fsck half published": (unpublish, lambda w: w.queue.fsck()),
    "fsck purged": (
        lambda w: purge(w, w.pending, w.claim.job, w.failed, w.succeeded),
        lambda w: w.queue.fsck(),
    ),
    "fsck purged directory": (
        lambda w: shutil.rmtree(w.queue.paths.job(w.pending).dir),
        lambda w: w.queue.fsck(),
    ),
}


@pytest.fixture
def base() -> Iterator[Path]:
    with fast_dir() as path:
        yield path


def check(root: Path, known: set[str], transition: str) -> None:
    """Open the queue again and run all remaining jobs."""
    queue = Queue(root)
    for job in queue.jobs():  # a final state needs its files
        attempt = job.paths.attempt(job.attempt)
        if job.state is State.SUCCEEDED:
            assert records.read(attempt.result, Result) is not None
        if job.state is State.SUCCEEDED or (transition == "finish failed" and job.state in FINAL):
            assert records.read(attempt.end, End) is not None
    repairs = queue.fsck()
    states = entries(queue)
    assert known <= states.keys(), f"lost: {known - states.keys()}"
    assert all(len(each) == 1 for each in states.values()), f"duplicated: {states}"
    assert {job.id: [job.state.value] for job in queue.jobs()} == states
    assert repairs.hopeless == []
    assert [name for name in hidden(root) if name.name.startswith(".tmp-")] == []
    queue.enqueue(score_spec("new"))
    queue.release()
    for worker in (W, V):
        queue.reap(worker=worker, now=True)
    done = finish_all(queue)
    ended = entries(queue)
    assert len(ended) == len(known | {queue.job("new").id})
    assert all(len(states) == 1 and states[0] in FINAL for states in ended.values()), ended
    for job in queue.jobs("succeeded"):
        assert job.spec == score_spec(job.spec.name)
        assert job.paths.result.is_symlink() or job.id not in done


def finish_all(queue: Queue) -> set[str]:
    done = set[str]()
    while (claim := queue.claim(V)) is not None:
        assert claim.job not in done, "done twice"
        assert claim.dir.claim.exists() and not claim.dir.end.exists()
        done.add(claim.job)
        claim.finish("succeeded", {"metrics": {}})
    return done


@pytest.mark.parametrize("torn", [False, True], ids=["killed", "torn"])
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_killed_at_every_call(transition: str, torn: bool, base: Path) -> None:
    prepare, act = TRANSITIONS[transition]
    index, killed = 0, True
    while killed:
        root = base / str(index)
        world = build(root)
        known = entries(world.queue).keys() | set[str]()
        prepare(world)
        corrupt = transition == "claim corrupt"
        killed = killed_at(index, lambda world=world: act(world), torn=torn)
        if corrupt:
            check_corrupt(root, world)
        else:
            check(root, known, transition)
        shutil.rmtree(root)
        index += 1
    assert index > 1, "the transition made no call: the harness is broken"


def check_corrupt(root: Path, world: World) -> None:
    """A job without a valid copy of its spec fails when it is claimed next."""
    queue = Queue(root)
    queue.fsck()
    for worker in (V, V):
        queue.reap(worker=worker, now=True)
        while (claim := queue.claim(worker)) is not None:
            claim.finish("succeeded")
    job = queue.job(world.pending)
    assert (job.state, job.reason) == ("failed", Reason.CORRUPT)
    assert len(entries(queue)[world.pending]) == 1


def test_killed_at_every_call_of_create(base: Path) -> None:
    index, killed = 0, True
    while killed:
        root = base / str(index)
        killed = killed_at(index, lambda root=root: Queue.create(root))
        queue = Queue.create(root)
        job = queue.enqueue(score_spec())
        assert entries(queue) == {job.id: ["pending"]}
        queue.fsck()
        assert hidden(root) == []
        index += 1
    assert index > 10


def test_a_ticket_is_never_partly_written(base: Path) -> None:
    """Every file that ever appears in a state's directory has the bytes of the spec."""
    index, killed = 0, True
    while killed:
        queue = Queue.create(base / str(index))

        def life(queue: Queue = queue) -> None:
            queue.enqueue(score_spec())
            claim = queue.claim(V)
            assert claim is not None
            claim.requeue("walltime")
            again = queue.claim(V)
            assert again is not None
            again.finish("succeeded", {"metrics": {}})

        killed = killed_at(index, life, torn=True)
        for state in State:
            for path in queue.paths.state(state).iterdir():
                assert path.read_bytes() == canonical(score_spec())
        index += 1
