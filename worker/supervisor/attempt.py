"""Runs one attempt of a job: starts its phases as child processes, stops them, and commits."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobspec.errors import ClaimLost, DiskFull, JobspecError
from jobspec.queue.claim import Claim
from jobspec.records import base as records
from jobspec.records import exit_codes
from jobspec.records.attempt import AttemptEvent, End, PhaseTime, Result
from jobspec.records.base import UNSET, Reason, Record
from jobspec.records.phases import EVAL, PREPARE, TRAIN
from jobspec.records.reports import EvalReport
from jobspec.storage import fs
from jobspec.storage.disk_errors import FULL, explain
from jobspec.storage.layout import AttemptPaths
from jobspec.storage.patience import at_most, patient
from worker import phases
from worker.host import memory, read_ahead
from worker.host.energy import EnergyMeter
from worker.launch import manifest
from worker.launch.command import NodeLayout, multi_node_command, phase_command
from worker.launch.environment import phase_environment
from worker.launch.plan import BatchPlan, plan_batch
from worker.phases import PhaseEntry
from worker.process.child import Child
from worker.supervisor.attempt_history import AttemptHistory, read_history, stop_cost_s
from worker.supervisor.carry_over import carry_over
from worker.supervisor.commit import AttemptOutcome, Commit, require_claim
from worker.supervisor.exit_reason import Circumstances, PhaseOutcome, classify_exit
from worker.supervisor.progress_log import ProgressLog, say
from worker.supervisor.speed_watch import SpeedWatch

if TYPE_CHECKING:
    from worker.supervisor.worker import Worker

_TICK_S = 0.1
_WATCH_PATIENCE_S = 1.0  # the loop that watches a phase tries again by itself
_PORT_TRIES = 3  # RACE: another process may bind a free port before the phase does


class Attempt:
    """Runs the phases of a claimed job and commits the outcome."""

    def __init__(self, worker: Worker, claim: Claim) -> None:
        self._worker = worker
        self._claim = claim
        self._paths = claim.dir
        self._spec = claim.spec
        self._started = time.monotonic()
        self._started_at = records.utc_now()
        self._times: list[PhaseTime] = []
        self._next_claim_check = 0.0
        self._plan: BatchPlan | None = None
        self._history = AttemptHistory()
        self._first_step_s: float | None = None
        self._deleted = False
        self._stop_cost_s = 0.0
        self._next_cost_check = 0.0
        self._progress = ProgressLog(claim.dir, claim.job, say)
        self._speed: SpeedWatch | None = None
        self._meter: EnergyMeter | None = None

    def run(self) -> AttemptOutcome:
        """Run the remaining phases, then commit. Errors of the job are committed, not raised."""
        try:
            return self._commit(self._outcome())
        except ClaimLost as error:
            return AttemptOutcome(None, Reason.LOST, str(error), self._wall_s)

    def _outcome(self) -> PhaseOutcome:
        """Run the phases. An error of the filesystem ends the attempt, which is retried."""
        try:
            return self._phases()
        except DiskFull as error:
            self._worker.hold_for_space(str(error))
            return PhaseOutcome(Reason.DISK, str(error), error.hint)
        except OSError as error:
            return self._failed_filesystem(error)

    def _failed_filesystem(self, error: OSError) -> PhaseOutcome:
        gone = self._gone()
        if gone is not None:
            return gone
        known = explain(error)
        if error.errno in FULL:
            self._worker.hold_for_space(str(known))
            return PhaseOutcome(Reason.DISK, str(known), known.hint)
        return PhaseOutcome(Reason.FILESYSTEM, str(known), known.hint)

    def _gone(self) -> PhaseOutcome | None:
        """The outcome if the attempt's directory was deleted; None if it is there."""
        try:
            if fs.exists(self._paths.dir):
                return None
        except OSError:
            return None
        return PhaseOutcome(
            Reason.FILESYSTEM,
            f"its directory was deleted while it ran: {self._paths.dir}",
            f"to end a job, run `jobspec cancel {self._claim.job}`",
        )

    @property
    def _wall_s(self) -> float:
        return time.monotonic() - self._started

    def _phases(self) -> PhaseOutcome:
        root = self._worker.root
        read_ahead.start(self._spec.model, self._worker.queue.paths)
        job = self._worker.queue.paths.job(self._claim.job)
        self._history = read_history(job, self._claim.attempt)
        for line in carry_over(job, self._paths, root):
            self._event("inherit", message=line)
        wanted = phases.of(self._spec)
        try:
            for phase in wanted:
                phase.check(self._spec, self._worker.devices.on_gpu)
            if any(phase.all_devices for phase in wanted):
                self._plan = plan_batch(
                    self._spec,
                    self._worker.devices,
                    max_rows=self._history.micro,
                    least_memory=self._history.ran_out,
                )
        except JobspecError as error:
            return PhaseOutcome(Reason.FAILED, str(error), error.hint, again=False)
        self._write_manifest()
        for phase in wanted:
            if (outcome := self._finish(phase)) is not None:
                return outcome
        return PhaseOutcome(Reason.SUCCEEDED)

    def _finish(self, phase: PhaseEntry) -> PhaseOutcome | None:
        """Run a phase unless it is finished or not needed. None if the next phase can start."""
        if fs.exists(self._paths.done(phase.name)):
            self._times.append(PhaseTime(phase=phase.name, kept=True))
            return None
        if not phase.is_needed(self._paths, self._plan):
            return None
        if self._worker.signals.stop:
            return self._classify(phase.name, exit_codes.STOPPED, None)
        outcome = self._phase(phase)
        if outcome is not None:
            return outcome
        if (row := phase.finished_event(self._paths, self._plan)) is not None:
            self._event(**row)
        if phase.manifest_facts is not None:
            self._write_manifest()  # again, with facts from this phase's summary
        return None

    def _write_manifest(self) -> None:
        worker, plan = self._worker, self._plan
        on_gpu = worker.devices.on_gpu
        finished: dict[str, Record] = {}
        deepspeed: dict[str, Any] | None = None
        for phase in phases.of(self._spec):
            report = phase.info.read(self._paths) if phase.manifest_facts else None
            if phase.manifest_facts is not None and report is not None:
                finished |= phase.manifest_facts(report)
            if phase.settings is not None and plan is not None:
                deepspeed = phase.settings(self._spec, plan, on_gpu)
        facts = manifest.manifest(
            worker.devices, plan, worker.id, self._spec, finished, deepspeed=deepspeed
        )
        fs.publish(self._paths.manifest, records.encode(facts))

    def _phase(self, phase: PhaseEntry) -> PhaseOutcome | None:
        """Run one phase. None if it succeeded."""
        ranks = self._plan.world if self._plan is not None and phase.all_devices else 1
        self._worker.send_heartbeat(
            job=self._claim.job, attempt=self._claim.attempt, phase=phase.name, note=None
        )
        self._check_claim()
        self._event("start", phase=phase.name, ranks=ranks)
        fs.remove(self._paths.error)
        kills = memory.KillWatch()
        tried = 1
        while (code := self._run(phase, ranks)) == exit_codes.PORT_IN_USE and tried < _PORT_TRIES:
            tried += 1
        if fs.exists(self._paths.done(phase.name)):
            return None  # whatever its processes did afterwards
        return self._gone() or self._classify(phase.name, code, kills.describe())

    def _run(self, phase: PhaseEntry, ranks: int) -> int | None:
        """Run a phase's ranks. Returns their exit code; None if they were killed."""
        command, environment = self._command(phase, ranks), self._environment(ranks)
        nodes = self._nodes(ranks)
        self._meter = EnergyMeter() if nodes == 1 else None
        trains = phase.info.trains
        self._speed = SpeedWatch(self._worker, self._claim, nodes, self._event) if trains else None
        child = patient(Child)(command, environment, self._paths.log(phase.name))
        try:
            code = self._watch(child, phase)
        finally:
            child.kill()
            energy = self._meter.read() if self._meter is not None else None
            self._times.append(PhaseTime(phase=phase.name, wall_s=child.wall_s, energy=energy))
        self._event("end", phase=phase.name, exit_code=code, wall_s=child.wall_s)
        return code

    def _watch(self, child: Child, phase: PhaseEntry) -> int | None:
        """Wait for a phase: send heartbeats, check the claim, forward stops, detect a hang.

        Returns:
            The exit code; None if the phase must be killed.

        Raises:
            ClaimLost: another worker has the job; the caller kills the phase.
        """
        worker, asked_at = self._worker, None
        activity = _Activity(self._paths, phase.name)
        while (code := child.wait(_TICK_S)) is None:
            self._send_heartbeat()
            if self._meter is not None:
                self._meter.keep_up()
            if phase.info.trains and self._first_step_s is None and _is_there(self._paths.metrics):
                self._first_step_s = self._wall_s
            if self._deleted:
                return None
            if worker.time_left_s() < self._stop_margin_s(phase):
                worker.signals.run_out()
            if worker.signals.stop and asked_at is None:
                asked_at = time.monotonic()
                self._event("stop", phase=phase.name)
                child.stop()
            stopping_s = 0.0 if asked_at is None else time.monotonic() - asked_at
            if worker.signals.at_once or stopping_s > worker.options.grace_s:
                return None
            if activity.idle_s() > worker.options.stall_s:
                self._event("stall", phase=phase.name)
                return None
        return code

    def _stop_margin_s(self, phase: PhaseEntry) -> float:
        """How long before the worker's end a stop must start: twice a step and a save."""
        if not phase.info.trains:
            return self._worker.options.stop_margin_s
        now = time.monotonic()
        if now >= self._next_cost_check:
            self._stop_cost_s = stop_cost_s(self._paths)
            self._next_cost_check = now + (60.0 if self._stop_cost_s else 5.0)
        return max(self._worker.options.stop_margin_s, 2 * self._stop_cost_s)

    def _send_heartbeat(self) -> None:
        try:
            with at_most(_WATCH_PATIENCE_S):
                self._worker.send_heartbeat()
                self._progress.look()
                if self._speed is not None:
                    self._speed.look()
                if time.monotonic() >= self._next_claim_check:
                    self._check_claim()
                    self._deleted = not fs.exists(self._paths.dir)
        except (OSError, DiskFull):
            return  # the root does not answer; the claim may still be held, so go on

    def _check_claim(self) -> None:
        self._next_claim_check = time.monotonic() + self._worker.queue.format.heartbeat_s
        require_claim(self._claim)

    def _classify(self, phase: str, code: int | None, killed: str | None) -> PhaseOutcome:
        about = Circumstances(
            spec=self._spec,
            plan=self._plan,
            paths=self._paths,
            stopping=self._worker.signals.stop,
            time_left_s=self._worker.time_left_s() + self._worker.signals.asked_s(),
            warned=self._worker.signals.requeue,
            stall_s=self._worker.options.stall_s,
            on_gpu=self._worker.devices.on_gpu,
            killed_for_memory=killed,
        )
        return classify_exit(phase, code, about)

    def _commit(self, outcome: PhaseOutcome) -> AttemptOutcome:
        phases_s = sum(each.wall_s for each in self._times)
        end = End(
            reason=outcome.reason,
            message=outcome.message,
            hint=outcome.hint,
            phase=outcome.phase,
            exit_code=outcome.exit_code,
            step=outcome.step,
            worker=self._worker.id,
            host=self._worker.host,
            started_at=self._started_at,
            ended_at=records.utc_now(),
            wall_s=self._wall_s,
            phases=tuple(self._times),
            overhead_s=self._wall_s - phases_s,
            unexplained=outcome.unexplained,
            first_step_s=self._first_step_s,
        )
        try:
            result = self._result(end) if outcome.reason is Reason.SUCCEEDED else None
        except OSError as error:
            return self._commit(self._failed_filesystem(error))
        return Commit(self._worker, self._claim, self._history.failed_on).write(
            outcome, end, result
        )

    def _result(self, end: End) -> Result:
        evaluated = EVAL.read(self._paths) or EvalReport()
        return Result(
            job=self._claim.job,
            attempt=self._claim.attempt,
            metrics=evaluated.metrics,
            protocol=evaluated.protocol,
            train=TRAIN.read(self._paths) or UNSET,
            prepare=PREPARE.read(self._paths) or UNSET,
            overhead_s=end.overhead_s,
            phases=end.phases,
        )

    def _command(self, phase: PhaseEntry, ranks: int) -> list[str]:
        options, nodes = self._worker.options, self._nodes(ranks)
        if nodes > 1:
            layout = NodeLayout(
                nodes=nodes,
                ranks=ranks // nodes,
                tmp=self._worker.tmp,
                launcher=options.launcher,
                isolation=options.isolation,
            )
            log = self._paths.log(phase.name)
            return multi_node_command(phase.module, self._paths.dir, log, layout)
        return phase_command(
            phase.module,
            self._paths.dir,
            ranks=ranks,
            port=_free_port() if phase.all_devices else 0,
            isolation=options.isolation,
        )

    def _nodes(self, ranks: int) -> int:
        """The number of nodes that run a phase's ranks. A single rank always runs on this node."""
        return self._plan.nodes if self._plan is not None and ranks > 1 else 1

    def _environment(self, ranks: int) -> dict[str, str]:
        return phase_environment(
            os.environ,
            root=self._worker.root,
            tmp=self._worker.tmp,
            devices=self._worker.devices,
            ranks=ranks // self._nodes(ranks),
        )

    def _event(self, event: str, **facts: Any) -> None:
        row = AttemptEvent(time=records.utc_now(), event=event, **facts)
        fs.append(self._paths.events, records.encode_line(row))


class _Activity:
    """Tells whether a phase still writes to its log, its metrics or its progress file."""

    def __init__(self, paths: AttemptPaths, phase: str) -> None:
        self._files = (paths.log(phase), paths.metrics, paths.progress)
        self._seen: tuple[Any, ...] = ()
        self._changed_at = time.monotonic()
        self._next = 0.0

    def idle_s(self) -> float:
        """Seconds since one of the files last changed; they are read at most every ten seconds."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 10.0
            seen = tuple(_stamp(file) for file in self._files)
            if seen != self._seen:
                self._seen, self._changed_at = seen, now
        return now - self._changed_at


def _is_there(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:
        return False


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
