"""One attempt of one job: its phases as child processes, their stops and ends, the commit."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from jobspec.errors import ClaimLost, DiskFull, JobspecError
from jobspec.maintenance import disk
from jobspec.queue.claim import Claim
from jobspec.records import base as records
from jobspec.records import exit_codes
from jobspec.records.attempt import End, PhaseTime, Result
from jobspec.records.base import Reason, State
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths
from worker.checkpoints import directories, integrity
from worker.kernels import liger
from worker.launch import manifest, plan
from worker.process.child import Child
from worker.supervisor.attempt_history import look, stop_takes_s
from worker.supervisor.carry_over import inherit
from worker.supervisor.exit_reason import Circumstances, Verdict, judge

if TYPE_CHECKING:
    from worker.supervisor.worker import Worker

_TICK_S = 0.1
_PORTS_TRIED = 3  # between looking for a free port and its use another process may take it


@dataclass(frozen=True)
class Ended:
    """How an attempt ended. `state` is None where the claim was lost."""

    state: State | None
    reason: Reason
    message: str = ""
    wall_s: float = 0.0


class Attempt:
    """Runs a claim's phases to their end and commits what came of them."""

    def __init__(self, worker: Worker, claim: Claim) -> None:
        self._worker = worker
        self._claim = claim
        self._paths = claim.dir
        self._spec = claim.spec
        self._started = time.monotonic()
        self._started_at = records.utc_now()
        self._times: list[PhaseTime] = []
        self._next_look = 0.0
        self._plan: plan.Plan | None = None
        self._past = look(worker.queue.paths.job(claim.job), claim.attempt)
        self._first_step_s: float | None = None
        self._stop_takes_s = 0.0
        self._next_save_look = 0.0

    def run(self) -> Ended:
        """Run what is missing of the job, then commit. Never raises for what a job does wrong."""
        try:
            verdict = self._phases()
            return self._commit(verdict)
        except ClaimLost as error:
            return Ended(None, Reason.LOST, str(error), self._wall_s)
        except DiskFull as error:
            self._worker.hold_for_space(str(error))
            return self._commit(Verdict(Reason.DISK, str(error), error.hint))

    @property
    def _wall_s(self) -> float:
        return time.monotonic() - self._started

    def _phases(self) -> Verdict:
        root = self._worker.root
        for line in inherit(self._worker.queue.paths.job(self._claim.job), self._paths, root):
            self._event("inherit", message=line)
        devices = self._worker.devices
        try:
            if self._spec.train is not None:
                liger.check(self._spec, on_gpu=devices.on_gpu)
                past = self._past
                self._plan = plan.plan(self._spec, devices, most_rows=past.micro)
        except JobspecError as error:
            return Verdict(Reason.FAILED, str(error), error.hint, again=False)
        self._write_manifest()
        for phase in self._spec.phases():
            if self._paths.done(phase).exists():
                self._times.append(PhaseTime(phase=phase, kept=True))
                continue
            if phase == "train" and (verdict := self._convert()) is not None:
                return verdict
            ranks = self._plan.world if self._plan is not None and phase == "train" else 1
            verdict = self._phase(phase, ranks)
            if verdict is not None:
                return verdict
            if phase in ("prepare", "train"):
                self._write_manifest()  # again: which rows, which engine is known now
        return Verdict(Reason.SUCCEEDED)

    def _write_manifest(self) -> None:
        reports = (self._paths.done(phase) for phase in ("prepare", "train"))
        prepared, trained = (_read_json(done) if done.exists() else None for done in reports)
        worker = self._worker
        facts = manifest.manifest(
            worker.devices, self._plan, worker.id, self._spec, prepared, trained=trained
        )
        fs.publish(self._paths.manifest, msgspec.json.format(msgspec.json.encode(facts), indent=2))

    def _convert(self) -> Verdict | None:
        """Make the resume state fit this attempt's ranks, where other ranks made it."""
        assert self._plan is not None
        if not directories.needs_conversion(self._paths, self._plan.world):
            return None
        verdict = self._phase("convert", 1)
        checkpoint = directories.newest_complete(self._paths)
        saved = integrity.read_manifest(checkpoint) if verdict is None and checkpoint else None
        if saved is not None and saved.converted is not None:
            facts = msgspec.to_builtins(saved.converted)
            self._event("converted", step=saved.step, to_ranks=self._plan.world, **facts)
        return verdict

    def _phase(self, phase: str, ranks: int) -> Verdict | None:
        """Run one phase. None if it finished."""
        self._worker.beat(job=self._claim.job, attempt=self._claim.attempt, phase=phase)
        self._look()
        self._event("start", phase=phase, ranks=ranks)
        self._paths.error.unlink(missing_ok=True)
        tried = 1
        while (code := self._run(phase, ranks)) == exit_codes.PORT_IN_USE and tried < _PORTS_TRIED:
            tried += 1
        if code == exit_codes.DONE and self._paths.done(phase).exists():
            return None
        return self._judge(phase, code)

    def _run(self, phase: str, ranks: int) -> int | None:
        """Run a phase's ranks. Returns their exit code; None if they had to be killed."""
        child = Child(self._command(phase, ranks), self._environment(ranks), self._paths.log(phase))
        try:
            code = self._watch(child, phase)
        finally:
            child.kill()
            self._times.append(PhaseTime(phase=phase, wall_s=child.wall_s))
        self._event("end", phase=phase, exit_code=code, wall_s=child.wall_s)
        return code

    def _watch(self, child: Child, phase: str) -> int | None:
        """Beat, look for the claim, pass stops on, and see that something moves.

        Returns:
            The exit code; None if the phase had to be killed.

        Raises:
            ClaimLost: the claim is gone; the phase is killed by the caller.
        """
        worker, asked_at = self._worker, None
        movement = _Movement(self._paths, phase)
        while (code := child.wait(_TICK_S)) is None:
            self._beat()
            if phase == "train" and self._first_step_s is None and self._paths.metrics.exists():
                self._first_step_s = self._wall_s
            if worker.time_left_s() < self._stop_margin_s(phase):
                worker.signals.run_out()
            if worker.signals.stop and asked_at is None:
                asked_at = time.monotonic()
                self._event("stop", phase=phase)
                child.stop()
            stopping_s = 0.0 if asked_at is None else time.monotonic() - asked_at
            if worker.signals.at_once or stopping_s > worker.options.grace_s:
                return None
            if movement.still_s() > worker.options.stall_s:
                self._event("stall", phase=phase)
                return None
        return code

    def _stop_margin_s(self, phase: str) -> float:
        """How long before the worker's end a stop must begin: a step and a save, twice over."""
        if phase != "train":
            return self._worker.options.stop_margin_s
        now = time.monotonic()
        if now >= self._next_save_look:
            self._stop_takes_s = stop_takes_s(self._paths)
            self._next_save_look = now + (60.0 if self._stop_takes_s else 5.0)
        return max(self._worker.options.stop_margin_s, 2 * self._stop_takes_s)

    def _beat(self) -> None:
        try:
            self._worker.beat()
            if time.monotonic() >= self._next_look:
                self._look()
        except OSError:
            return  # the root does not answer: unknown is not gone, so the phase goes on

    def _look(self) -> None:
        """Raise ClaimLost if the claim is gone for sure."""
        self._next_look = time.monotonic() + self._worker.queue.format.heartbeat_s
        if self._claim.held() is False:
            raise ClaimLost(f"attempt {self._claim.attempt} of `{self._claim.job}` was taken away")

    def _judge(self, phase: str, code: int | None) -> Verdict:
        about = Circumstances(
            spec=self._spec,
            plan=self._plan,
            paths=self._paths,
            stopping=self._worker.signals.stop,
            time_left_s=self._worker.time_left_s(),
            stall_s=self._worker.options.stall_s,
        )
        return judge(phase, code, about)

    def _commit(self, verdict: Verdict) -> Ended:
        """Write why it ended, then move the claim. Tries again while the root does not answer."""
        phases_s = sum(each.wall_s for each in self._times)
        end = End(
            reason=verdict.reason,
            message=verdict.message,
            hint=verdict.hint,
            phase=verdict.phase,
            exit_code=verdict.exit_code,
            step=verdict.step,
            worker=self._worker.id,
            host=self._worker.host,
            started_at=self._started_at,
            ended_at=records.utc_now(),
            wall_s=self._wall_s,
            phases=tuple(self._times),
            overhead_s=self._wall_s - phases_s,
            unexplained=verdict.unexplained,
            first_step_s=self._first_step_s,
        )
        while True:
            if self._must_go():
                # Nobody is told why: the claim will be reaped, and the reason is `lost`.
                return Ended(None, Reason.LOST, "the root takes no word", end.wall_s)
            try:
                state = self._move(verdict, end)
                return Ended(state, verdict.reason, verdict.message or verdict.reason, end.wall_s)
            except DiskFull as error:
                self._worker.hold_for_space(str(error))
                self._wait_for_root()
            except OSError:
                self._wait_for_root()

    def _must_go(self) -> bool:
        """Whether a stop was asked for so long ago that the commit can't be waited for."""
        stop_s = self._worker.signals.asked_s()
        return self._worker.signals.at_once or stop_s > self._worker.options.grace_s

    def _wait_for_root(self) -> None:
        time.sleep(1.0)
        try:
            self._worker.beat()
        except OSError:
            return

    def _drop_states(self) -> None:
        """Of a job that succeeded nobody resumes: optimizer states and trash go."""
        with contextlib.suppress(OSError):
            job = self._worker.queue.paths.job(self._claim.job)
            for path in disk.leftovers(job, states=True):
                disk.drop(path)

    def _move(self, verdict: Verdict, end: End) -> State:
        if verdict.reason is Reason.SUCCEEDED:
            self._claim.finish(State.SUCCEEDED, self._result(end), end)
            self._drop_states()
            self._worker.blame(self._past.failed_on, self._claim.job)
            return State.SUCCEEDED
        if not verdict.again:
            self._claim.finish(State.FAILED, end=end)
            return State.FAILED
        self._look()  # `finish` looks by itself, and knows a commit of its own; `end` does not
        if verdict.reason is Reason.DISK:
            self._worker.hold_for_space(verdict.message)
        self._claim.end(end)  # before the budgets are asked, which read it
        return self._claim.requeue(verdict.reason)

    def _result(self, end: End) -> Result:
        done = {phase: _read_json(self._paths.done(phase)) for phase in self._spec.phases()}
        evaluated = done.get("eval", {})
        return Result(
            job=self._claim.job,
            attempt=self._claim.attempt,
            metrics=evaluated.get("metrics", {}),
            protocol=evaluated.get("protocol", {}),
            train=done.get("train", {}),
            prepare=done.get("prepare", {}),
            overhead_s=end.overhead_s,
            phases=end.phases,
        )

    def _command(self, phase: str, ranks: int) -> list[str]:
        options, nodes = self._worker.options, self._nodes(ranks)
        if nodes > 1:
            spread = plan.Spread(
                nodes=nodes,
                ranks=ranks // nodes,
                tmp=self._worker.tmp,
                launcher=options.launcher,
                isolation=options.isolation,
            )
            return plan.spread_command(phase, self._paths, spread)
        return plan.phase_command(
            phase,
            self._paths.dir,
            ranks=ranks,
            port=_free_port() if ranks > 1 or phase == "train" else 0,
            isolation=options.isolation,
        )

    def _nodes(self, ranks: int) -> int:
        """How many nodes a phase's ranks are on: one rank is always on this one."""
        return self._plan.nodes if self._plan is not None and ranks > 1 else 1

    def _environment(self, ranks: int) -> dict[str, str]:
        return plan.phase_environment(
            os.environ,
            root=self._worker.root,
            tmp=self._worker.tmp,
            devices=self._worker.devices,
            ranks=ranks // self._nodes(ranks),
        )

    def _event(self, event: str, **facts: Any) -> None:
        row = {"time": records.utc_now(), "event": event, **facts}
        fs.append(self._paths.events, msgspec.json.encode(row) + b"\n")


class _Movement:
    """Whether a phase still does something: a log line, a metric, a progress report."""

    def __init__(self, paths: AttemptPaths, phase: str) -> None:
        self._files = (paths.log(phase), paths.metrics, paths.progress)
        self._seen: tuple[Any, ...] = ()
        self._moved = time.monotonic()
        self._next = 0.0

    def still_s(self) -> float:
        """Seconds since anything moved, looked at every ten seconds at most."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 10.0
            seen = tuple(_stamp(file) for file in self._files)
            if seen != self._seen:
                self._seen, self._moved = seen, now
        return now - self._moved


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


def _read_json(path: Path) -> dict[str, Any]:
    return msgspec.json.decode(path.read_bytes())
