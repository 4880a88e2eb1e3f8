"""The worker's main loop: preflight, claim a job or wait, run its phases, commit. No torch.

A single thread does all of this. The loop that watches a phase also sends the heartbeats, so a
worker whose loop hangs stops sending them, and another worker gets its job.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

from jobspec.cluster import detect, reaping
from jobspec.errors import DiskFull, JobspecError, RootError
from jobspec.queue.claim import Claim
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records import exit_codes
from jobspec.records.base import FINAL, State
from jobspec.records.worker import WorkerRecord
from jobspec.spec import parsing
from jobspec.spec.schema import JobSpec
from jobspec.storage import patience
from jobspec.storage.disk_errors import FULL, explain
from jobspec.storage.layout import Ticket
from worker.host import disk, identity, preflight, scheduler_env
from worker.host.devices import WorkerDevices
from worker.launch.plan import plan_batch
from worker.supervisor.attempt import Attempt
from worker.supervisor.attempt_history import AttemptHistory, read_history
from worker.supervisor.commit import AttemptOutcome
from worker.supervisor.helping import Helping
from worker.supervisor.idle import IdleWait
from worker.supervisor.node_check import NodeCheck
from worker.supervisor.options import WorkerOptions
from worker.supervisor.progress_log import say, what_was_saved
from worker.supervisor.signals import Signals

QUARANTINE_S = 3600.0
_RECORD_EVERY_S = 60.0
_MARK_EVERY_S = 300.0
_FAST_S = 60.0
_SPACE_HOLD = "disk:"
_SHORT_S = 1.0  # for loops that try again by themselves, and when a stop was requested


class Worker:
    """One worker process on one node."""

    def __init__(self, queue: Queue, options: WorkerOptions, devices: WorkerDevices) -> None:
        self.queue = queue
        self.options = options
        self.devices = devices
        self.scheduler = scheduler_env.read()
        self.id = identity.worker_id(self.scheduler)
        self.host = identity.short_host()
        self.signals = Signals()
        self.tmp = disk.short_tmp()
        self._started_at = records.utc_now()
        self._started = time.monotonic()
        self._next_heartbeat = 0.0
        self._next_record = 0.0
        self._busy_s = 0.0
        self._busy_since: float | None = None
        self._shown: dict[str, Any] = {}
        self._finished = 0
        self._failures = 0
        self._holds = False  # whether this worker put the queue on hold
        self._reported = self._held_here = ""  # why the root can't be used; empty if it can
        self._next_mark, self._mark_again_s = 0.0, 1.0
        self._others: bool | None = None
        self._histories: dict[Ticket, AttemptHistory] = {}
        self._scheduler, self._next_scheduler_check = detect.scheduler(), 0.0
        self._fitness = preflight.Fitness(self.root, self.tmp, devices.count)
        self._node = NodeCheck(self)
        self._helping = Helping(self, say)

    def run(self) -> int:
        """Run jobs until there is a reason to stop. Returns the process's exit code."""
        self.signals.install()
        nodes = f"{self.devices.nodes} nodes, each " if self.devices.nodes > 1 else ""
        what = f"{nodes}{self.devices.count} × {self.devices.name or 'cpu'}"
        say(f"worker {self.id}: {what}, root {self.root}")
        patience.on_wait = self._keep_waiting
        try:
            return self._work()
        finally:
            with contextlib.suppress(OSError, DiskFull), patience.at_most(_SHORT_S):
                self._helping.stop()
                self.queue.retire(self.id)  # otherwise its files are removed after four leases
            shutil.rmtree(self.tmp, ignore_errors=True)

    @property
    def root(self) -> Path:
        return self.queue.paths.root

    def send_heartbeat(self, **shown: Any) -> None:
        """Send a heartbeat if one is due.

        The worker's record goes with it if `shown` changes the record, or if the record is old.

        Raises:
            OSError: the root does not answer.
        """
        now = time.monotonic()
        self._show(**shown)
        job = self._shown.get("job")
        if (job is None) != (self._busy_since is None):
            self._busy_s = self._busy_until(now)
            self._busy_since = None if job is None else now
        if now >= self._next_record:
            self.queue.heartbeat(self.id, self._record(), job=job)
            self._next_record = now + _RECORD_EVERY_S
        elif now >= self._next_heartbeat:
            self.queue.heartbeat(self.id, job=job)
        else:
            return
        self._next_heartbeat = now + self.queue.format.heartbeat_s

    def _show(self, **shown: Any) -> None:
        """Change what the next record says."""
        if any(self._shown.get(name) != value for name, value in shown.items()):
            self._next_record = 0.0
        self._shown |= shown

    def try_heartbeat(self) -> None:
        """Send a heartbeat if one is due and the root answers soon."""
        try:
            with patience.at_most(_SHORT_S):
                self.send_heartbeat()
        except (OSError, DiskFull):
            self._next_heartbeat = time.monotonic() + _SHORT_S

    def report(self, error: OSError | DiskFull) -> None:
        """Log an error of the root, once while it stays the same."""
        message = str(error if isinstance(error, DiskFull) else explain(error))
        if message != self._reported:
            self._reported = message
            say(f"the root does not answer, trying again: {message}")

    def _keep_waiting(self, error: OSError, waited_s: float) -> bool:
        """Whether to go on repeating an operation: not once this worker has to stop."""
        if waited_s > _SHORT_S:
            self.report(error)
        in_a_hurry = self.signals.stop or self.time_left_s() < self.options.min_claim_s
        return not in_a_hurry or waited_s < _SHORT_S

    def _busy_until(self, now: float) -> float:
        """Seconds for which the worker has had a job, up to `now`."""
        return self._busy_s + (0.0 if self._busy_since is None else now - self._busy_since)

    @property
    def next_heartbeat_in_s(self) -> float:
        return max(0.0, self._next_heartbeat - time.monotonic())

    def time_left_s(self) -> float:
        """Seconds until this worker must end, according to Slurm or `--time-limit`."""
        limit = self.options.time_limit_s
        own = float("inf") if limit is None else limit - (time.monotonic() - self._started)
        return min(own, self.scheduler.time_left_s())

    def fits(self, spec: JobSpec) -> bool:
        """Whether a job can run on this worker's devices."""
        memory_gib = (self.devices.memory_gib or 0) if self.devices.on_gpu else 0
        if (spec.resources.gpu_memory_gib or 0) > memory_gib:
            return False
        try:
            plan_batch(spec, self.devices)
        except JobspecError:
            return False
        return True

    def _work(self) -> int:
        waiter = IdleWait(self.queue.paths, poll=self.options.poll)
        while True:
            if (code := self._reason_to_leave(waiter)) is not None:
                return code
            if self._fitness.unfit_s > self.options.unfit_timeout_s:
                return exit_codes.WORKER_UNFIT
            claim = self._claim()
            if claim is not None:
                waiter.reset()
                self._run(claim)
            elif not self.queue.saw_drain(self.id):
                self._helping.look(start=not self._held_here and not self._shown.get("note"))
                self._idle(waiter)

    def _run(self, claim: Claim) -> None:
        """Run one attempt and say how it ended."""
        self._helping.stop()
        say(f"{claim.job} attempt {claim.attempt}: begins, logs in {claim.dir.dir}")
        outcome = Attempt(self, claim).run()
        self._finished += 1
        state = outcome.state or "given up"
        why = "" if outcome.message == state else f", {outcome.message}"
        say(f"{claim.job} attempt {claim.attempt}: {state}{why}")
        if self.signals.stop and outcome.state is State.PENDING:
            say(what_was_saved(self.queue.paths, claim.job, claim.attempt))
        self._show(job=None, attempt=None, phase=None)
        if self._holds:
            with contextlib.suppress(OSError):
                self._try_release()
        self._back_off(outcome)

    def _reason_to_leave(self, waiter: IdleWait) -> int | None:
        options = self.options
        if self.signals.stop:
            wants_more = self.signals.requeue and self._work_remains()
            return exit_codes.WORKER_REQUEUE if wants_more else exit_codes.DONE
        if options.max_jobs is not None and self._finished >= options.max_jobs:
            return exit_codes.DONE
        if self.time_left_s() < options.min_claim_s:
            say("not enough time is left to start a job")
            return exit_codes.WORKER_REQUEUE if self._work_remains() else exit_codes.DONE
        if self.queue.saw_drain(self.id):
            return exit_codes.DONE
        if options.drain and not self._work_remains():
            return exit_codes.DONE
        limit = options.idle_timeout_s
        if limit is not None and waiter.idle_s >= limit and not self._work_remains():
            return exit_codes.DONE
        return None

    def _work_remains(self) -> bool:
        """Whether there are jobs that this worker could run now, or might get later."""
        wanted = self.options.jobs
        try:
            if wanted:
                return any(job.id in wanted and job.state not in FINAL for job in self.queue.jobs())
            return self.queue.has_work(self.fits)
        except (OSError, RootError):
            return True  # the root does not answer, so there may be jobs

    def _claim(self) -> Claim | None:
        if self._held_here and not self._can_write_again():
            return None
        try:
            self.send_heartbeat()
            self._reap()  # first, because its listing also shows whether this worker should drain
            if self.queue.saw_drain(self.id) or not self._is_fit():
                return None
            self._others = None
            claim = self.queue.claim(self.id, self.fits, self._may_acquire)
            if claim is None and self.queue.was_held and self._try_release():
                claim = self.queue.claim(self.id, self.fits, self._may_acquire)
            self._reported = ""
            return claim
        except DiskFull as error:
            self.hold_for_space(str(error))
        except OSError as error:
            if error.errno in FULL:
                self.hold_for_space(str(explain(error)))
            self.report(error)
        except RootError as error:  # a directory of the queue is missing: perhaps not mounted
            self.report(FileNotFoundError(errno.ENOENT, error.message, error.file))
        return None

    def _reap(self) -> None:
        """Put the jobs of dead workers back; at once if Slurm reports that a worker has ended."""
        self.queue.reap()
        if time.monotonic() >= self._next_scheduler_check:
            self._next_scheduler_check = time.monotonic() + 2 * self.queue.format.heartbeat_s
            reaping.reap(self.queue, self._scheduler, silent_only=True)

    def _is_fit(self) -> bool:
        """Whether this node may claim jobs. An unfit node says why and is quarantined."""
        helping = self._helping.job is not None
        findings = self._fitness.findings(in_use=helping)
        marked = self._node.why_quarantined()
        if self._node.is_due and not findings and not marked and not helping:
            findings = self._fitness.probed = self._node.look(QUARANTINE_S)
            marked = self._node.why_quarantined()
        note = "; ".join(finding.message for finding in findings) or marked
        # The first finding of each node.
        broken = {each.host or self.host: each.message for each in findings[::-1] if each.of_node}
        if not broken:
            self._mark_again_s = 1.0
        if broken and not marked and time.monotonic() >= self._next_mark:
            # Less and less often: it may be refused, and each try reads all worker records.
            self._mark_again_s = min(2 * self._mark_again_s, _MARK_EVERY_S)
            self._next_mark = time.monotonic() + self._mark_again_s
            for host, why in broken.items():
                self.queue.quarantine(host, why, QUARANTINE_S, self.id, certain=False)
        self.send_heartbeat(note=note or None)
        return not note

    def _may_acquire(self, ticket: Ticket) -> bool:
        """Whether to claim this job: enough time is left, and it did not just fail on this host."""
        if self.options.jobs and ticket.job not in self.options.jobs:
            return False
        history = self._history(ticket)
        if self.time_left_s() < (history.useful_s or self.options.min_claim_s):
            return False
        if history.state is not None and not self._has_room(ticket, history):
            return False  # a worker with the checkpoint's number of devices need not convert it
        return history.failed_on != self.host or not self._others_live()

    def _has_room(self, ticket: Ticket, history: AttemptHistory) -> bool:
        """Whether the checkpoint fits this worker's ranks, or there is space to convert it."""
        assert history.state is not None
        try:
            spec = parsing.load(self.queue.paths.job(ticket.job).spec)
            world = plan_batch(spec, self.devices, max_rows=history.micro).world
        except JobspecError:
            return True  # the attempt will report what is wrong
        free = patience.patient(shutil.disk_usage)(self.root).free
        return history.state.fits(world) or history.state.conversion_space < free

    def _history(self, ticket: Ticket) -> AttemptHistory:
        if ticket not in self._histories:
            self._histories[ticket] = read_history(self.queue.paths.job(ticket.job), ticket.attempt)
        return self._histories[ticket]

    def _others_live(self) -> bool:
        if self._others is None:  # read once per search for a job, not once per job
            quarantined = self.queue.quarantined()
            hosts = {seen.record.host for seen in self.queue.workers() if seen.has_heartbeat}
            self._others = bool(hosts - {self.host} - quarantined.keys())
        return self._others

    def quarantine_host(self, host: str | None, job: str) -> None:
        """Quarantine the host where a job failed unexplained before it succeeded here."""
        if host is not None and host != self.host:
            reason = f"{job} failed there for no known reason and succeeded on {self.host}"
            self.queue.quarantine(host, reason, QUARANTINE_S, self.id, certain=False)

    def hold_for_space(self, why: str) -> None:
        """Put the queue on hold while the root is full. Workers wait until there is space again."""
        try:
            self.queue.hold(reason=why, by=f"{_SPACE_HOLD}{self.id}")
            self._holds = True
        except (OSError, DiskFull) as error:
            self._held_here = why
            self.report(error)

    def _can_write_again(self) -> bool:
        """End this worker's own hold, which replaces one that could not be written to the root."""
        if disk.can_write(self.root):
            self._held_here = self._reported = ""
            say("the root can be written again")
        return not self._held_here

    def _try_release(self) -> bool:
        """Release a hold for space once a large write succeeds again."""
        hold = self.queue.on_hold()
        if hold is None or not hold.by.startswith(_SPACE_HOLD) or not disk.can_write(self.root):
            return False
        self.queue.release()
        self._holds = False
        return True

    def _idle(self, waiter: IdleWait) -> None:
        until = time.monotonic() + waiter.next_wait_s()
        while time.monotonic() < until and not self.signals.stop:
            self.try_heartbeat()
            if waiter.wait(min(until - time.monotonic(), self.next_heartbeat_in_s, 1.0)):
                return

    def _back_off(self, outcome: AttemptOutcome) -> None:
        """Wait longer after each quick failure, so that a bad host can't fail the whole queue."""
        if outcome.state is State.SUCCEEDED or outcome.wall_s > _FAST_S:
            self._failures = 0
            return
        self._failures += 1
        self._fitness.forget()
        until = time.monotonic() + random.uniform(0.5, 1.5) * min(60.0, 2.0**self._failures)
        while time.monotonic() < until and not self.signals.stop:
            self.try_heartbeat()
            time.sleep(min(0.2, max(0.0, until - time.monotonic())))

    def _record(self) -> WorkerRecord:
        return WorkerRecord(
            worker=self.id,
            host=self.host,
            pid=os.getpid(),
            started_at=self._started_at,
            updated_at=records.utc_now(),
            gpus=self.devices.total if self.devices.on_gpu else 0,
            gpu_name=self.devices.name,
            gpu_memory_gib=self.devices.memory_gib,
            slurm_cluster=self.scheduler.cluster,
            slurm_job=self.scheduler.job,
            slurm_restart_count=self.scheduler.restart_count,
            slurm_element=self.scheduler.element,
            ends_at=self.scheduler.ends_at_utc,
            busy_s=self._busy_until(time.monotonic()),
            **self._shown,
        )
