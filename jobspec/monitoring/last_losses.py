"""A run's last losses, from its result or, while it has none, from its newest metric rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from jobspec.queue.job import Job
from jobspec.records import metrics
from jobspec.records.attempt import Result

_TAIL_BYTES = 8192  # of the metrics: some thirty rows


class LastLosses(NamedTuple):
    """The last loss on the training rows and on the held-out rows, and the tokens so far."""

    loss: float | None = None
    eval_loss: float | None = None
    tokens: float | None = None


def read(job: Job, finished: Result | None) -> LastLosses:
    """The last losses of a job.

    Args:
        finished: the job's result; None while it has none.
    """
    train = finished.train if finished is not None else None
    if train:
        return LastLosses(train.loss, train.eval_loss, train.tokens or None)
    attempts = metrics.attempts(job.paths)
    return newest(list(metrics.tail(attempts[-1].metrics, _TAIL_BYTES)) if attempts else [])


def newest(rows: Sequence[metrics.Row]) -> LastLosses:
    """The last of these rows' losses."""
    names = ("loss", "eval_loss", "num_tokens")
    return LastLosses(*(finite(metrics.latest(rows, name)) for name in names))


def finite(value: Any) -> float | None:
    """A number that can be drawn; None for anything else, such as NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None
