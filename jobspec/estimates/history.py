"""What finished jobs in this queue measured, for estimates of jobs to come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from jobspec.errors import JobspecError
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records.base import Record, State
from jobspec.records.phases import EVAL, TRAIN, PhaseInfo
from jobspec.records.reports import EvalReport, TrainReport
from jobspec.storage.layout import RootPaths

_MAX_JOBS = 200  # the newest ones: an old queue must not make a check slow


_Measured = TypeVar("_Measured", bound=Record)


def trainings(model: str, root: Path) -> Iterator[tuple[str, TrainReport]]:
    """Yield the job id and the measurements of finished jobs that trained this model."""
    return _measured(model, root, TRAIN)


def evaluations(model: str, root: Path) -> Iterator[tuple[str, EvalReport]]:
    """Yield the job id and the measurements of finished jobs that evaluated this model."""
    return _measured(model, root, EVAL)


def _measured(
    model: str, root: Path, phase: PhaseInfo[_Measured]
) -> Iterator[tuple[str, _Measured]]:
    """Read the reports of a phase, those of the newest jobs first."""
    if not RootPaths(root).format.exists():
        return
    finished = Queue(root).jobs(State.SUCCEEDED)
    for job in sorted(finished, key=lambda job: job.enqueued_at, reverse=True)[:_MAX_JOBS]:
        if _model_of(job) == model:
            report = phase.read(job.paths.attempt(job.attempt))
            if report is not None:
                yield job.id, report


def _model_of(job: Job) -> str | None:
    try:
        return job.spec.model.name
    except (JobspecError, OSError):
        return None
