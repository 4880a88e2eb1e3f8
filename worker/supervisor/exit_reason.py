"""Classifies why a phase ended, and decides whether another attempt may help."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from jobspec.records import base as records
from jobspec.records import exit_codes, phases
from jobspec.records.attempt import PhaseError, Progress
from jobspec.records.base import Reason
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import AttemptPaths
from worker.launch.plan import BatchPlan

_NEAR_END_S = 900.0
_REPORTED = {
    exit_codes.REFUSED: Reason.FAILED,
    exit_codes.DISK_FULL: Reason.DISK,
    exit_codes.OUT_OF_MEMORY: Reason.OOM,
}


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
    """What `classify_exit` needs besides the exit code."""

    spec: JobSpec
    plan: BatchPlan | None
    paths: AttemptPaths
    stopping: bool
    time_left_s: float
    stall_s: float


def classify_exit(phase: str, code: int | None, about: Circumstances) -> PhaseOutcome:
    """Classify the end of a phase that did not finish.

    Args:
        phase: its name.
        code: the exit code; None if the worker killed the phase.
        about: the state of the attempt and its worker.
    """
    error = records.read(about.paths.error, PhaseError)
    if code in _REPORTED or (code == exit_codes.UNEXPLAINED and not about.stopping):
        # The launcher passes on the first exit code that it sees. A rank that only lost its peer
        # may exit before that peer, so the peer's error decides and not the code.
        kind = (error.kind if error is not None else None) or _REPORTED.get(code)
        if kind is not None:
            error = error or PhaseError(phase=phase, message=f"{phase} ended: {kind}")
            return _refused(phase, code, msgspec.structs.replace(error, kind=kind), about)
    if about.stopping:
        reason = Reason.WALLTIME if about.time_left_s < _NEAR_END_S else Reason.PREEMPTED
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
        micro = about.plan.micro if about.plan is not None and phases.trains(phase) else 1
        again = micro > 1
        if again:
            message += (
                f"; retried with {max(1, micro // 2)} rows per micro-batch instead of {micro}"
            )
        hint = None if again else hint or settings_that_fit(about.spec, phase)
    return PhaseOutcome(kind, message, hint, phase, code, error.step, again=again)


def _unexplained(
    phase: str, code: int, error: PhaseError | None, about: Circumstances
) -> PhaseOutcome:
    """A failure of unknown kind. Before the first step or sample, the host may be the cause."""
    tail = error.message if error is not None else _last_line(about.paths, phase)
    progress = records.read(about.paths.progress, Progress)
    begun = progress is not None and progress.phase == phase and progress.done > 0
    return PhaseOutcome(
        Reason.FAILED,
        f"{phase} exited {code}: {tail}",
        f"`jobspec logs {about.paths.job_dir.name} --phase {phase}` shows its whole log",
        phase,
        code,
        again=not begun,
        unexplained=not begun,
    )


def settings_that_fit(spec: JobSpec, phase: str) -> str:
    """Settings of a spec that reduce memory, those with the least side effects first."""
    train = spec.train
    if not phases.trains(phase) or train is None:
        return "use devices with more memory, or a smaller eval.max_gen_toks"
    changes = [
        (not train.gradient_checkpointing, "train.gradient_checkpointing=true"),
        (train.zero_stage != 3, "train.zero_stage=3 on more devices"),
        (train.offload == "none", 'train.offload="optimizer"'),
        (train.lora is None, 'train.lora={"r": 16}'),
        (True, f"train.max_length below {train.max_length}"),
    ]
    return "these settings need less memory: " + ", ".join(
        change for helps, change in changes if helps
    )


def _last_line(paths: AttemptPaths, phase: str) -> str:
    try:
        text = paths.log(phase).read_bytes()[-4096:].decode(errors="replace")
    except OSError:
        return "no log"
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "an empty log"
