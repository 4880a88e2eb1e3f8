"""Carries over finished phases, weights and checkpoints from earlier attempts to a new one.

RACE: a reaped attempt may still run and write to its own directory. So nothing is used in place:
directories are first renamed into the new attempt and then checked.
"""

from __future__ import annotations

from pathlib import Path

from jobspec.records import base as records
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, JobPaths, epoch_of
from worker.checkpoints import directories
from worker.phases import PHASES, PhaseEntry


def carry_over(job: JobPaths, attempt: AttemptPaths, root: Path) -> list[str]:
    """Let `attempt` start where the earlier attempts ended.

    Returns:
        A log line about each item that was carried over or was damaged.
    """
    if attempt.number == 1:
        return []
    earlier = [job.attempt(number) for number in range(attempt.number - 1, 0, -1)]
    lines: list[str] = []
    for phase in PHASES:
        if phase.reused_as is not None and _reuse(phase, earlier, attempt, root):
            lines.append(phase.reused_as)
            if phase.info.trains:
                _collect_epochs(earlier, attempt)
                return lines
    checkpoint, damaged = directories.carry_over(job, attempt)
    lines += [f"not resumed from: {line}" for line in damaged]
    if checkpoint is not None:
        lines.append(f"resumes from {checkpoint.dir.name}")
    _collect_epochs(earlier, attempt)
    return lines


def _reuse(
    phase: PhaseEntry, earlier: list[AttemptPaths], attempt: AttemptPaths, root: Path
) -> bool:
    """Carry a finished phase over: its outputs first, its report last. False if there is none."""
    reports = (phase.info.read(paths) for paths in earlier)
    usable = (report for report in reports if report and phase.is_usable(report, root))
    report = next(usable, None)
    if report is None:
        return False
    for number, target in enumerate(phase.outputs(attempt)):
        if not any(fs.move_once(phase.outputs(paths)[number], target) for paths in earlier):
            return False
    fs.publish(attempt.done(phase.name), records.encode(report))
    return True


def _collect_epochs(earlier: list[AttemptPaths], attempt: AttemptPaths) -> None:
    """Move the weights of finished epochs to the new attempt."""
    fs.make_dir(attempt.checkpoints)
    for paths in earlier:
        for name in fs.list_names(paths.checkpoints):
            source, target = paths.checkpoints / name, attempt.checkpoints / name
            if epoch_of(source) is not None and not fs.exists(target):
                fs.move_once(source, target)
