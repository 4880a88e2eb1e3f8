"""What finished jobs in this queue measured, for estimates of jobs to come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from jobspec.errors import JobspecError
from jobspec.queue.entries import Job
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.base import Record, State
from jobspec.storage.layout import RootPaths

_MAX_JOBS = 200  # the newest ones: an old queue must not make a check slow


class TrainingDevices(Record, frozen=True, kw_only=True):
    """The part of `train.json` that says what a job trained on."""

    device: str = ""
    world_size: int = 1


class MeasuredTraining(Record, frozen=True, kw_only=True):
    """The part of a finished job's `train.json` that says how fast it was."""

    tokens_per_second: float | None = None
    engine: TrainingDevices = TrainingDevices()

    @property
    def tokens_per_second_per_device(self) -> float | None:
        if self.tokens_per_second is None:
            return None
        return self.tokens_per_second / max(1, self.engine.world_size)


class GenerationTiming(Record, frozen=True, kw_only=True):
    """The part of `eval.json` that says how long generation took."""

    tokens: float = 0.0
    generate_s: float = 0.0


class MeasuredEvaluation(Record, frozen=True, kw_only=True):
    """The part of a finished job's `eval.json` that says how long evaluation takes."""

    metrics: dict[str, float | None] = msgspec.field(default_factory=dict[str, float | None])
    timing: GenerationTiming = GenerationTiming()


_Measured = TypeVar("_Measured", bound=Record)


def trainings(model: str, root: Path) -> Iterator[tuple[str, MeasuredTraining]]:
    """Yield the job id and the measurements of finished jobs that trained this model."""
    return _measured(model, root, "train", MeasuredTraining)


def evaluations(model: str, root: Path) -> Iterator[tuple[str, MeasuredEvaluation]]:
    """Yield the job id and the measurements of finished jobs that evaluated this model."""
    return _measured(model, root, "eval", MeasuredEvaluation)


def _measured(
    model: str, root: Path, phase: str, kind: type[_Measured]
) -> Iterator[tuple[str, _Measured]]:
    """Read the summaries of a phase, those of the newest jobs first."""
    if not RootPaths(root).format.exists():
        return
    finished = Queue(root).jobs(State.SUCCEEDED)
    for job in sorted(finished, key=lambda job: job.enqueued_at, reverse=True)[:_MAX_JOBS]:
        if _model_of(job) == model:
            summary = records.read(job.paths.attempt(job.attempt).done(phase), kind)
            if summary is not None:
                yield job.id, summary


def _model_of(job: Job) -> str | None:
    try:
        return job.spec.model.name
    except (JobspecError, OSError):
        return None
