"""Classifies why a phase ended, and decides whether another attempt may help."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import msgspec

from jobspec.estimates import memory_settings, micro_batches
from jobspec.records import base as records
from jobspec.records import exit_codes, phases
from jobspec.records.attempt import PhaseError
from jobspec.records.base import Reason
from jobspec.records.manifest import MicroBatchPlan
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import AttemptPaths
from worker.launch.plan import BatchPlan

# Slurm's warning (USR2) comes so long before the end. Its SIGTERM at the end comes late, not early.
_NEAR_END_S = 900.0
_AT_END_S = 5.0
_SIGNALS = {int(each): each.name for each in signal.Signals}
_REPORTED = {
    exit_codes.REFUSED: Reason.FAILED,
    exit_codes.DISK_FULL: Reason.DISK,
    exit_codes.OUT_OF_MEMORY: Reason.OOM,
    exit_codes.FILESYSTEM: Reason.FILESYSTEM,
}
# An error.json does not override these. Any code that is in neither table means a process died; the
# one that is seen first says little about why.
_KNOWN = (exit_codes.STOPPED, exit_codes.PORT_IN_USE)


@dataclass(frozen=True)
class PhaseOutcome:
    """Why the phases ended. `again`: another attempt may succeed, if the retry budget allows it."""

    reason: Reason
    message: str = ""
    hint: str | None = None
    phase: str | None = None
    exit_code: int | None = None
    step: int | None = None
    again: bool = True
    unexplained: bool = False


@dataclass(frozen=True)
class Circumstances:
    """What `classify_exit` needs besides the exit code.

    Attributes:
        time_left_s: of the worker's time when the stop was requested.
        warned: the stop was requested because time is short, and not by scancel or preemption.
        killed_for_memory: how much memory the worker's processes used, if the kernel killed one of
            them for memory during the phase; None if it did not.
    """

    spec: JobSpec
    plan: BatchPlan | None
    paths: AttemptPaths
    stopping: bool
    time_left_s: float
    stall_s: float
    warned: bool = False
    on_gpu: bool = False
    killed_for_memory: str | None = None


def classify_exit(phase: str, code: int | None, about: Circumstances) -> PhaseOutcome:
    """Classify the end of a phase that did not finish.

    Args:
        phase: its name.
        code: the exit code; None if the worker killed the phase.
        about: the state of the attempt and its worker.
    """
    error = records.read(about.paths.error, PhaseError)
    died = code is not None and code not in (*_KNOWN, *_REPORTED)
    if died and about.killed_for_memory is not None:
        # The rank that was killed wrote nothing, and what the others say is about losing it.
        message = f"{phase} was killed for memory: {about.killed_for_memory}"
        killed = PhaseError(phase=phase, kind=Reason.OOM, message=message)
        return _refused(phase, exit_codes.KILLED, killed, about)
    failed = died and code != exit_codes.NODE_LOST and not about.stopping
    if code is not None and (code in _REPORTED or failed):
        # The launcher passes on the first exit code that it sees. A rank that only lost its peer
        # may exit before that peer, or a native library may abort it. So the error of the rank that
        # failed first decides, and not the code.
        kind = (error.kind if error is not None else None) or _REPORTED.get(code)
        if kind is not None:
            error = error or PhaseError(phase=phase, message=f"{phase} ended: {kind}")
            return _refused(phase, code, msgspec.structs.replace(error, kind=kind), about)
    if about.stopping:
        near_s = _NEAR_END_S if about.warned else _AT_END_S
        reason = Reason.WALLTIME if about.time_left_s < near_s else Reason.PREEMPTED
        kept = "its state is saved" if code == exit_codes.STOPPED else "its state is not saved"
        return PhaseOutcome(reason, f"stopped during {phase}: {kept}", None, phase, code)
    if code == exit_codes.STOPPED:
        return PhaseOutcome(Reason.PREEMPTED, f"{phase} was stopped by a signal", None, phase, code)
    if code == exit_codes.NODE_LOST:
        message = f"{phase} lost a node: {_last_line(about.paths, phase)}"
        return PhaseOutcome(
            Reason.NODE, message, "`sinfo -R` may say what happened to it", phase, code
        )
    if code is None:
        message = f"{phase} hung: no step, sample or log line for {about.stall_s:.0f} s"
        return PhaseOutcome(Reason.NODE, message, "the end of its log shows where", phase)
    if code == exit_codes.KILLED:
        killed = PhaseError(phase=phase, kind=Reason.OOM, message=f"{phase} was killed (SIGKILL)")
        return _refused(phase, code, killed, about)
    return _unexplained(phase, code, error, about)


def _refused(phase: str, code: int, error: PhaseError, about: Circumstances) -> PhaseOutcome:
    """Bad input is final; out of memory is retried with smaller micro-batches, all else as is."""
    kind, message, hint = error.kind or Reason.FAILED, error.message, error.hint
    again = kind not in (Reason.FAILED, Reason.OOM)
    if kind is Reason.OOM:
        smaller = _with_less_memory(about) if phases.trains(phase) else None
        # Other phases need no less memory the next time, but another process may have taken it.
        killed = code == exit_codes.KILLED and not phases.trains(phase)
        again = smaller is not None or killed
        if smaller is not None:
            message += f"; retried with {smaller}"
        hint = None if again else hint or _settings_that_fit(phase, code, about)
    return PhaseOutcome(kind, message, hint, phase, code, error.step, again=again)


def _settings_that_fit(phase: str, code: int, about: Circumstances) -> str:
    if code == exit_codes.KILLED:
        return memory_settings.for_host(about.spec, phase, on_gpu=about.on_gpu)
    return memory_settings.for_devices(about.spec, phase)


def _with_less_memory(about: Circumstances) -> str | None:
    """What another attempt does to take less memory than this one; None if nothing is left."""
    train, plan = about.spec.train, about.plan
    if train is None or plan is None:
        return None
    if micro_batches.is_adjustable(train):
        made = records.read(about.paths.micro_batches, MicroBatchPlan)
        if plan.least_memory or (made is not None and made.least_memory):
            return None
        return "the settings that take the least memory"
    if plan.micro == 1:
        return None
    return f"{plan.micro // 2} rows per micro-batch instead of {plan.micro}"


def _unexplained(
    phase: str, code: int, error: PhaseError | None, about: Circumstances
) -> PhaseOutcome:
    """A failure of unknown kind, e.g. of a GPU: another host may do better."""
    tail = error.message if error is not None else _last_line(about.paths, phase)
    return PhaseOutcome(
        Reason.FAILED,
        f"{phase} exited with {_describe(code)}: {tail}",
        f"`jobspec logs {about.paths.job_dir.name} --phase {phase}` shows its whole log",
        phase,
        code,
        unexplained=True,
    )


def _describe(code: int) -> str:
    """`SIGSEGV` for 139, `code 1` for 1."""
    return _SIGNALS.get(code - 128, f"code {code}")


def _last_line(paths: AttemptPaths, phase: str) -> str:
    try:
        text = paths.log(phase).read_bytes()[-4096:].decode(errors="replace")
    except OSError:
        return "no log"
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "an empty log"
