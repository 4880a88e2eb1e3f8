"""The losses that `status` shows of a job, and whether its training diverges."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from jobspec.records import metrics, phases
from jobspec.records.attempt import End, Progress, Result
from jobspec.records.base import Reason
from jobspec.records.reports import LossChange

if TYPE_CHECKING:
    from jobspec.queue.job import Job

# A running training diverges if the mean of its last losses is this much above all of its first.
_FIRST, _LAST, _ABOVE = 5, 8, 1.1
_BYTES = 4096  # of the metrics, at each end: some fifteen rows
# What `worker.training.errors.NonFiniteLossError` says.
_NON_FINITE = re.compile(r"(?:the (?:held-out )?loss|the gradient's norm) is (?:nan|-?inf)\b")


class Losses(msgspec.Struct, frozen=True, kw_only=True):
    """A job's losses in nats a token, the newest or final ones; None if unknown.

    Attributes:
        rise: of a training that made the loss higher; of a running one, so far.
        non_finite: the attempt failed because a loss or the gradient's norm was NaN or infinite.
    """

    loss: float | None = None
    eval_loss: float | None = None
    rise: LossChange | None = None
    non_finite: bool = False


def read(
    job: Job,
    finished: Result | None,
    progress: Progress | None,
    end: End | None,
    newest: Mapping[str, float | None],
) -> Losses:
    """The losses of a job: from its result, its newest metric rows, or how it failed.

    Args:
        finished: the result of a succeeded job.
        progress: of a running job.
        end: of an attempt that has ended.
        newest: metrics of a running job.
    """
    if finished is not None:
        train = finished.train
        if not train:
            return Losses()
        return Losses(loss=train.loss, eval_loss=train.eval_loss, rise=train.loss_rise)
    phase = progress.phase if progress is not None else end.phase if end is not None else None
    if phase is None or not phases.trains(phase):
        return Losses()
    attempt = job.paths.attempt(job.attempt)
    newest = newest or metrics.newest(attempt, phase)
    failed = end is not None and end.reason is Reason.FAILED
    return Losses(
        loss=newest.get("loss"),
        eval_loss=newest.get("eval_loss"),
        rise=_rise(metrics.ends(attempt.metrics, _BYTES, "loss")) if progress is not None else None,
        non_finite=failed and end is not None and bool(_NON_FINITE.match(end.message)),
    )


def _rise(ends: tuple[list[float], list[float]]) -> LossChange | None:
    first, last = ends[0][:_FIRST], ends[1][-_LAST:]
    if len(first) < _FIRST or len(last) < _LAST:
        return None
    recent = math.fsum(last) / len(last)
    return LossChange(first=first[0], last=recent) if recent > _ABOVE * max(first) else None
