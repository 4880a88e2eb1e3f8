"""Why a phase ended, and what follows: the loss classes of an attempt."""

from __future__ import annotations

from dataclasses import dataclass

from jobspec.records import base as records
from jobspec.records import exit_codes, phases
from jobspec.records.attempt import PhaseError, Progress
from jobspec.records.base import Reason
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import AttemptPaths
from worker.launch.plan import BatchPlan

_NEAR_END_S = 900.0
_SAID = {
    exit_codes.REFUSED: Reason.FAILED,
    exit_codes.DISK_FULL: Reason.DISK,
    exit_codes.OUT_OF_MEMORY: Reason.OOM,
}


@dataclass(frozen=True)
class PhaseOutcome:
    """Why the phases ended. `again` says that another attempt may do better, budget permitting."""

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
    """What a judgement needs beside the exit code."""

    spec: JobSpec
    plan: BatchPlan | None
    paths: AttemptPaths
    stopping: bool
    time_left_s: float
    stall_s: float


def classify_exit(phase: str, code: int | None, about: Circumstances) -> PhaseOutcome:
    """The class of a phase's end that was not its finish.

    Args:
        code: the exit code; None if the phase had to be killed.
    """
    if code in _SAID:
        error = records.read(about.paths.error, PhaseError) or PhaseError(
            phase=phase, kind=_SAID[code], message=f"{phase} ended for {_SAID[code]}"
        )
        return _refused(phase, code, error, about)
    if about.stopping:
        reason = Reason.WALLTIME if about.time_left_s < _NEAR_END_S else Reason.PREEMPTED
        kept = "its state is saved" if code == exit_codes.STOPPED else "it was cut off"
        return PhaseOutcome(reason, f"stopped during {phase}: {kept}", None, phase, code)
    if code == exit_codes.STOPPED:
        return PhaseOutcome(Reason.PREEMPTED, f"{phase} was stopped by a signal", None, phase, code)
    if code == exit_codes.NODE_LOST:
        message = f"{phase} lost a node: {_last_line(about.paths, phase)}"
        return PhaseOutcome(
            Reason.NODE, message, "`sinfo -R` may say what became of it", phase, code
        )
    if code is None:
        message = f"{phase} hung: no step, no sample, no log line for {about.stall_s:.0f} s"
        return PhaseOutcome(Reason.NODE, message, "its log ends where it hung", phase)
    if code == exit_codes.KILLED:
        killed = PhaseError(phase=phase, kind=Reason.OOM, message=f"{phase} was killed (SIGKILL)")
        return _refused(phase, code, killed, about)
    return _unexplained(phase, code, about)


def _refused(phase: str, code: int, error: PhaseError, about: Circumstances) -> PhaseOutcome:
    """Bad input is final, memory gets one more try if it can help, a full disk is waited for."""
    kind, message, hint = error.kind, error.message, error.hint
    again = kind not in (Reason.FAILED, Reason.OOM)
    if kind is Reason.OOM:
        micro = about.plan.micro if about.plan is not None and phases.trains(phase) else 1
        again = micro > 1
        if again:
            message += (
                f"; tried once more with {max(1, micro // 2)} rows a micro-batch, not {micro}"
            )
        hint = None if again else hint or settings_that_fit(about.spec, phase)
    return PhaseOutcome(kind, message, hint, phase, code, error.step, again=again)


def _unexplained(phase: str, code: int, about: Circumstances) -> PhaseOutcome:
    """An end without a word: before the first step or sample it may be the host's doing."""
    tail = _last_line(about.paths, phase)
    progress = records.read(about.paths.progress, Progress)
    begun = progress is not None and progress.phase == phase and progress.done > 0
    return PhaseOutcome(
        Reason.FAILED,
        f"{phase} exited {code}: {tail}",
        f"`jobspec logs {about.paths.job_dir.name} --phase {phase}` has all it said",
        phase,
        code,
        again=not begun,
        unexplained=not begun,
    )


def settings_that_fit(spec: JobSpec, phase: str) -> str:
    """What of a spec can be changed so that it needs less memory, the mildest first."""
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
    return "these need less: " + ", ".join(change for helps, change in changes if helps)


def _last_line(paths: AttemptPaths, phase: str) -> str:
    try:
        text = paths.log(phase).read_bytes()[-4096:].decode(errors="replace")
    except OSError:
        return "no log"
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "an empty log"
