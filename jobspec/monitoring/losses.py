"""The losses that `status`, `results` and the page show of a job, and whether it diverges."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

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
_TAIL_BYTES = 8192  # of the metrics: some thirty rows
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


class LastLosses(NamedTuple):
    """The last loss on the training rows and on the held-out rows, and the tokens so far."""

    loss: float | None = None
    eval_loss: float | None = None
    tokens: float | None = None


def last(job: Job, finished: Result | None) -> LastLosses:
    """A job's last losses: from its result or, while it has none, from its newest metric rows.

    Args:
        finished: the job's result; None while it has none.
    """
    train = finished.train if finished is not None else None
    if train:
        return LastLosses(train.loss, train.eval_loss, train.tokens or None)
    attempts = metrics.attempts(job.paths)
    return of_rows(list(metrics.tail(attempts[-1].metrics, _TAIL_BYTES)) if attempts else [])


def of_rows(rows: Sequence[metrics.Row]) -> LastLosses:
    """The last of these rows' losses."""
    names = ("loss", "eval_loss", "num_tokens")
    return LastLosses(*(finite(metrics.latest(rows, name)) for name in names))


def finite(value: Any) -> float | None:
    """A number that can be drawn; None for anything else, such as NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None
