"""A state machine that compares the real queue with a simple model.

Several workers claim, send heartbeats, commit, requeue, freeze, die and continue. A reaper reads at
any time on its own clock. Users enqueue, cancel, retry, prioritize, hold, purge and repair. After
each step every job must be in exactly one state, with the state and attempt of the model, and the
result of a succeeded job must be from a single attempt.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from jobspec.errors import ClaimLost, TransitionRefused
from jobspec.queue.claim import Claim
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import Result
from jobspec.records.base import FINAL, State
from tests.support.queues import entries
from tests.support.specs import score_spec

HEARTBEAT_S, LEASE_S = 10.0, 60.0
WORKERS = [f"w-{number:016x}" for number in range(3)]
LIMITS = {"lost": 5, "node": 5, "oom": 2, "failed": 2}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Job:
    """The model of one job."""

    def __init__(self) -> None:
        self.state = "pending"
        self.attempt = 1
        self.holder: str | None = None
        self.reasons: list[str] = []  # since the last retry

    def lose(self, reason: str) -> None:
        """An attempt ends without a final state."""
        self.holder = None
        self.reasons.append(reason)
        if self.is_used_up():
            self.state = "failed"
        else:
            self.state, self.attempt = "pending", self.attempt + 1

    def is_used_up(self) -> bool:
        last = self.reasons[-1]
        if last in LIMITS:
            return self.reasons.count(last) >= LIMITS[last]
        recent = self.reasons[-3:]
        return len(recent) == 3 and all(each in ("preempted", "walltime") for each in recent)


class Worker:
    """The model of one worker process: its queue object and its claim."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.queue = Queue(root)
        self.claim: Claim | None = None


class QueueMachine(RuleBasedStateMachine):
    jobs = Bundle("jobs")

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory(dir=_memory())
        self.root = Path(self.directory.name) / "root"
        self.clock = Clock()
        self.queue = Queue.create(
            self.root, heartbeat_s=HEARTBEAT_S, lease_s=LEASE_S, clock=self.clock
        )
        self.model: dict[str, Job] = {}
        self.workers = {name: Worker(name, self.root) for name in WORKERS}
        self.stale: list[Claim] = []
        self.on_hold = False
        self.silence: dict[tuple[str, str], float] = {}
        self.last_read: float | None = None
        self.moved: set[tuple[str, str]] = set()

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.directory.cleanup()

    # Users

    @rule(target=jobs, number=st.integers(0, 5), priority=st.integers(0, 999))
    def enqueue(self, number: int, priority: int):
        job = self.queue.enqueue(score_spec(f"job{number}"), priority)
        assert job.already == (job.id in self.model)
        if job.already:
            assert job.state == self.model[job.id].state
            return multiple()
        self.model[job.id] = Job()
        return job.id

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        model = self.model[job]
        try:
            self.queue.cancel(job)
        except TransitionRefused:
            assert model.state in FINAL
        else:
            assert model.state in ("pending", "running")
            model.state, model.holder = "cancelled", None

    @rule(job=jobs)
    def retry(self, job: str) -> None:
        model = self.model[job]
        try:
            self.queue.retry(job)
        except TransitionRefused:
            assert model.state not in ("failed", "cancelled")
        else:
            assert model.state in ("failed", "cancelled")
            model.state, model.attempt = "pending", model.attempt + 1
            model.reasons.clear()

    @rule(job=jobs, priority=st.integers(0, 999))
    def prioritize(self, job: str, priority: int) -> None:
        try:
            assert self.queue.prioritize(job, priority).priority == priority
        except TransitionRefused:
            assert self.model[job].state != "pending"
        else:
            assert self.model[job].state == "pending"

    @rule()
    def toggle_hold(self) -> None:
        self.queue.release() if self.on_hold else self.queue.hold("maintenance")
        self.on_hold = not self.on_hold

    @rule()
    def repair(self) -> None:
        repairs = self.queue.fsck()
        assert repairs.rebuilt == repairs.completed == repairs.hopeless == repairs.superseded == []

    @rule(job=jobs)
    def purge_and_repair(self, job: str) -> None:
        """A scratch purge deletes the entry; `fsck` restores it."""
        model = self.model[job]
        (entry,) = self.root.glob(f"queue/*/*-{job}.*")
        if model.state in ("cancelled", "failed") or "failed" in model.reasons[-1:]:
            return  # these depend on end.json and are tested elsewhere
        entry.unlink()
        assert self.queue.fsck().rebuilt == [job]
        if model.state == "running":
            model.state, model.holder = "pending", None
            model.attempt += 1
            model.reasons.append("lost")
        elif model.state == "pending":
            # A second purge before the attempt began uses up a number, but no retry budget.
            attempt = self.queue.job(job).attempt
            assert attempt - model.attempt in (0, 1)
            model.attempt = attempt

    # Workers

    @rule(name=st.sampled_from(WORKERS))
    def claim(self, name: str) -> None:
        worker = self.workers[name]
        if worker.claim is not None:
            return
        claim = worker.queue.claim(name)
        pending = {job for job, model in self.model.items() if model.state == "pending"}
        if claim is None:
            assert self.on_hold or not pending
            return
        assert not self.on_hold and claim.job in pending
        model = self.model[claim.job]
        assert claim.attempt == model.attempt
        model.state, model.holder = "running", name
        worker.claim = claim

    @rule(name=st.sampled_from(WORKERS))
    def send_heartbeat(self, name: str) -> None:
        worker = self.workers[name]
        job = None if worker.claim is None else worker.claim.job
        worker.queue.heartbeat(name, job=job)
        if job is not None:
            self.moved.add((name, job))

    @rule(name=st.sampled_from(WORKERS), state=st.sampled_from(FINAL))
    def finish(self, name: str, state: State) -> None:
        worker = self.workers[name]
        if worker.claim is not None:
            claim, worker.claim = worker.claim, None
            self._commit(claim, state)

    @rule(
        name=st.sampled_from(WORKERS),
        reason=st.sampled_from(["preempted", "walltime", "node", "oom", "disk", "failed"]),
    )
    def requeue(self, name: str, reason: str) -> None:
        worker = self.workers[name]
        if worker.claim is None:
            return
        claim, worker.claim = worker.claim, None
        model = self.model[claim.job]
        held = self._holds(claim)
        assert claim.held() is held
        try:
            state = claim.requeue(reason)
        except ClaimLost:
            assert not held
        else:
            assert held
            model.lose(reason)
            assert state == model.state

    @rule(name=st.sampled_from(WORKERS))
    def die(self, name: str) -> None:
        """kill -9, and a new process with the same worker id."""
        worker = self.workers[name]
        if worker.claim is not None:
            self.stale.append(worker.claim)  # perhaps it was only frozen, and continues below
        self.workers[name] = Worker(name, self.root)

    @precondition(lambda self: self.stale)
    @rule(state=st.sampled_from(FINAL), data=st.data())
    def a_frozen_worker_continues(self, state: State, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.stale) - 1))
        self._commit(self.stale.pop(index), state)

    def _commit(self, claim: Claim, state: State) -> None:
        held = self._holds(claim)
        assert claim.held() is held
        result = {"metrics": {"attempt": float(claim.attempt)}}
        try:
            claim.finish(state, result)
        except ClaimLost:
            assert not held
        else:
            model = self.model[claim.job]
            assert held or (model.state, model.attempt) == (state, claim.attempt)
            model.state, model.holder = state.value, None

    def _holds(self, claim: Claim) -> bool:
        model = self.model[claim.job]
        return (model.state, model.attempt, model.holder) == (
            "running",
            claim.attempt,
            claim.worker,
        )

    # The reaper

    @rule(seconds=st.sampled_from([1.0, 10.0, 20.0, 1000.0, -50.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def reap(self) -> None:
        self._reap_once()

    @rule()
    def reap_for_a_lease(self) -> None:
        """A reader that polls regularly, while no worker sends heartbeats."""
        for _ in range(8):
            self._reap_once()
            self.clock.now += HEARTBEAT_S

    def _reap_once(self) -> None:
        gap = 0.0
        if self.last_read is not None:
            gap = min(max(self.clock.now - self.last_read, 0.0), 2 * HEARTBEAT_S)
        self.last_read = self.clock.now
        running = {
            (model.holder, job): model
            for job, model in self.model.items()
            if model.state == "running" and model.holder is not None
        }
        for key in [key for key in self.silence if key not in running]:
            del self.silence[key]
        expected = set[str]()
        for key in running:
            if key not in self.silence or key in self.moved:
                self.silence[key] = 0.0
            else:
                self.silence[key] += gap
            if self.silence[key] >= LEASE_S:
                expected.add(key[1])
        self.moved.clear()
        assert set(self.queue.reap()) == expected
        for job in expected:
            self.model[job].lose("lost")

    # Invariants

    @invariant()
    def every_job_is_in_the_state_of_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        assert entries(self.queue) == {job: [model.state] for job, model in self.model.items()}
        by_id = {job.id: job for job in self.queue.jobs()}
        for job, model in self.model.items():
            assert (by_id[job].attempt, by_id[job].worker) == (model.attempt, model.holder)

    @invariant()
    def a_result_is_from_one_attempt(self) -> None:
        if not hasattr(self, "model"):
            return
        for job, model in self.model.items():
            link = self.queue.paths.job(job).result
            assert link.is_symlink() == (model.state == "succeeded")
            if model.state == "succeeded":
                assert str(link.readlink()) == f"attempts/{model.attempt}/result.json"
                result = records.read(link, Result)
                assert result is not None
                assert result.metrics == {"attempt": float(model.attempt)}


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(
    max_examples=300,
    stateful_step_count=60,
    deadline=None,  # a disk decides how long a step takes
    suppress_health_check=[HealthCheck.too_slow],
)
