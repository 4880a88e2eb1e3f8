"""One attempt of one job: its phases as child processes, their stops and ends, the commit."""

from __future__ import annotations

import os
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from jobspec import fs, record
from jobspec.claim import Claim
from jobspec.errors import ClaimLost, DiskFull, JobspecError
from jobspec.paths import AttemptPaths
from jobspec.record import End, PhaseError, PhaseTime, Reason, Result, State
from worker import launch, manifest
from worker.child import Child
from worker.inherit import inherit
from worker.phase import EXIT_DONE, EXIT_REFUSED, EXIT_STOPPED

if TYPE_CHECKING:
    from worker.loop import Worker

_TICK_S = 0.1
_KILLED = 137  # 128 + SIGKILL: nobody of ours sends it to a phase that is not being ended


@dataclass(frozen=True)
class Ended:
    """How an attempt ended. `state` is None where the claim was lost."""

    state: State | None
    reason: Reason
    message: str = ""
    wall_s: float = 0.0

    @property
    def back_off_s(self) -> float:
        """How long a worker should wait after a fast failure of this kind."""
        return 10.0 if self.reason in (Reason.NODE, Reason.DISK) else 1.0


@dataclass(frozen=True)
class Verdict:
    """Why the phases ended, before anything is committed."""

    reason: Reason
    message: str = ""
    hint: str | None = None
    phase: str | None = None
    exit_code: int | None = None
    step: int | None = None


class Attempt:
    """Runs a claim's phases to their end and commits what came of them."""

    def __init__(self, worker: Worker, claim: Claim) -> None:
        self._worker = worker
        self._claim = claim
        self._paths = claim.dir
        self._spec = claim.spec
        self._started = time.monotonic()
        self._started_at = record.utc_now()
        self._times: list[PhaseTime] = []
        self._next_look = 0.0

    def run(self) -> Ended:
        """Run what is missing of the job, then commit. Never raises for what a job does wrong."""
        try:
            verdict = self._phases()
            return self._commit(verdict)
        except ClaimLost as error:
            return Ended(None, Reason.LOST, str(error), self._wall_s)
        except DiskFull as error:
            self._worker.queue.hold(reason=str(error), by=self._worker.id)
            return self._commit(Verdict(Reason.DISK, str(error), error.hint))

    @property
    def _wall_s(self) -> float:
        return time.monotonic() - self._started

    def _phases(self) -> Verdict:
        root = self._worker.root
        for line in inherit(self._worker.queue.paths.job(self._claim.job), self._paths, root):
            self._event("inherit", message=line)
        try:
            plan = launch.plan(self._spec, self._worker.devices) if self._spec.train else None
        except JobspecError as error:
            return Verdict(Reason.FAILED, str(error), error.hint)
        facts = manifest.manifest(self._worker.devices, plan, self._worker.id)
        fs.publish(self._paths.manifest, msgspec.json.format(msgspec.json.encode(facts), indent=2))
        for phase in self._spec.phases():
            if self._paths.done(phase).exists():
                self._times.append(PhaseTime(phase=phase, kept=True))
                continue
            ranks = plan.world if plan is not None and phase == "train" else 1
            verdict = self._phase(phase, ranks)
            if verdict is not None:
                return verdict
        return Verdict(Reason.SUCCEEDED)

    def _phase(self, phase: str, ranks: int) -> Verdict | None:
        """Run one phase. None if it finished."""
        self._worker.beat(job=self._claim.job, attempt=self._claim.attempt, phase=phase)
        self._look()
        self._event("start", phase=phase, ranks=ranks)
        self._paths.error.unlink(missing_ok=True)
        child = Child(self._command(phase, ranks), self._environment(ranks), self._paths.log(phase))
        try:
            code = self._watch(child, phase)
        finally:
            child.kill()
            self._times.append(PhaseTime(phase=phase, wall_s=child.wall_s))
        self._event("end", phase=phase, exit_code=code, wall_s=child.wall_s)
        if code == EXIT_DONE and self._paths.done(phase).exists():
            return None
        return self._judge(phase, code)

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
        """The class of a phase's end that was not its finish."""
        error = record.read(self._paths.error, PhaseError)
        stopping = self._worker.signals.stop
        if code == EXIT_REFUSED and error is not None:
            return Verdict(error.kind, error.message, error.hint, phase, code, error.step)
        if stopping:
            near_end = self._worker.time_left_s() < 900
            reason = Reason.WALLTIME if near_end else Reason.PREEMPTED
            kept = "its state is saved" if code == EXIT_STOPPED else "it was cut off"
            return Verdict(reason, f"stopped during {phase}: {kept}", None, phase, code)
        if code is None:
            message = f"{phase} made no progress for {self._worker.options.stall_s:.0f} s"
            return Verdict(Reason.NODE, message, "see its log for the last line", phase, code)
        if code == _KILLED:
            message = f"{phase} was killed (SIGKILL), most likely for the node's memory"
            return Verdict(Reason.OOM, message, "ask for more memory, or offload less", phase, code)
        tail = _last_line(self._paths.log(phase))
        return Verdict(Reason.FAILED, f"{phase} exited {code}: {tail}", None, phase, code)

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
            ended_at=record.utc_now(),
            wall_s=self._wall_s,
            phases=tuple(self._times),
            overhead_s=self._wall_s - phases_s,
        )
        while True:
            try:
                self._look()
                self._claim.end(end)
                state = self._move(verdict.reason, end)
                return Ended(state, verdict.reason, verdict.message or verdict.reason, end.wall_s)
            except DiskFull as error:
                self._worker.queue.hold(reason=str(error), by=self._worker.id)
                self._wait_for_root()
            except OSError:
                self._wait_for_root()

    def _wait_for_root(self) -> None:
        time.sleep(1.0)
        try:
            self._worker.beat()
        except OSError:
            return

    def _move(self, reason: Reason, end: End) -> State:
        if reason is Reason.SUCCEEDED:
            self._claim.finish(State.SUCCEEDED, self._result(end))
            shutil.rmtree(self._paths.trash, ignore_errors=True)
            return State.SUCCEEDED
        if reason is Reason.FAILED:
            self._claim.finish(State.FAILED)
            return State.FAILED
        return self._claim.requeue(reason)

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
        return launch.phase_command(
            phase,
            self._paths.dir,
            ranks=ranks,
            port=_free_port() if ranks > 1 or phase == "train" else 0,
            isolation=self._worker.options.isolation,
        )

    def _environment(self, ranks: int) -> dict[str, str]:
        return launch.phase_environment(
            os.environ,
            root=self._worker.root,
            tmp=self._worker.tmp,
            devices=self._worker.devices,
            ranks=ranks,
        )

    def _event(self, event: str, **facts: Any) -> None:
        row = {"time": record.utc_now(), "event": event, **facts}
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


def _last_line(log: Path) -> str:
    try:
        lines = log.read_bytes()[-4096:].decode(errors="replace").strip().splitlines()
    except OSError:
        return "no log"
    return lines[-1][:300] if lines else "an empty log"
