"""A run's curves as columns of equal length, thinned so that a page of many runs stays small."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from jobspec.monitoring.losses import finite
from jobspec.records.metrics import Row

MOST_POINTS = 300  # per curve; of more steps, each point is the mean of several
Column = list[float | None]
# Columns of the page and the fields of a metric row that they show.
_X = ("step", "epoch", "tokens", "hours")
_TRAIN = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "tokens_per_second": "tokens_per_second",
    "mfu": "mfu",
    "memory_gib": "peak_memory_gib",
}
_HELD_OUT = "eval_loss"
_DIGITS_X, _DIGITS_Y = 7, 4


class Curves(msgspec.Struct, frozen=True, kw_only=True):
    """Columns by name. A column without a single value is left out.

    Attributes:
        train: `step`, `epoch`, `tokens`, `hours`, then what is measured at each training step.
        held_out: the same positions, then `eval_loss`, and `eval_loss/<source>` in a mixture.
    """

    train: dict[str, Column] = {}
    held_out: dict[str, Column] = {}


def curves(history: Iterable[Row], most: int = MOST_POINTS) -> Curves:
    """The curves of a training.

    Args:
        history: the rows of a job, as if nothing had interrupted it.
        most: points per curve.
    """
    train: list[dict[str, float | None]] = []
    held_out: list[dict[str, float | None]] = []
    clock, tokens = _Clock(), None
    for row in history:
        at = {"step": finite(row.get("step")), "epoch": finite(row.get("epoch"))}
        if at["step"] is None:
            continue
        tokens = finite(row.get("num_tokens")) or tokens
        at |= {"tokens": tokens, "hours": clock.hours(row)}
        measured = {name: finite(row.get(field)) for name, field in _TRAIN.items()}
        if measured["loss"] is not None:
            train.append(at | measured)
        found = {name: finite(value) for name, value in row.items() if name.startswith(_HELD_OUT)}
        if found.get(_HELD_OUT) is not None:
            held_out.append(at | found)
    return Curves(train=_columns(_thinned(train, most)), held_out=_columns(held_out))


class _Clock:
    """Hours of training at each row. The time between two attempts does not count."""

    def __init__(self) -> None:
        self._s = 0.0
        self._last: tuple[Any, float] | None = None

    def hours(self, row: Row) -> float | None:
        try:
            now = datetime.fromisoformat(str(row.get("time"))).timestamp()
        except ValueError:
            return None
        attempt = row.get("attempt")
        if self._last is not None and self._last[0] == attempt:
            self._s += max(0.0, now - self._last[1])
        self._last = attempt, now
        return self._s / 3600


def _thinned(points: Sequence[dict[str, float | None]], most: int) -> list[dict[str, float | None]]:
    """At most `most` points: means of equally many neighbours, at the position of the last."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    parts = [points[first : first + size] for first in range(0, len(points), size)]
    return [
        {name: part[-1][name] if name in _X else _mean(part, name) for name in part[-1]}
        for part in parts
    ]


def _mean(points: Sequence[dict[str, float | None]], name: str) -> float | None:
    values = [value for point in points if (value := point[name]) is not None]
    return math.fsum(values) / len(values) if values else None


def _columns(points: Sequence[dict[str, float | None]]) -> dict[str, Column]:
    names = dict.fromkeys(name for point in points for name in point)
    made = {name: [_short(name, point.get(name)) for point in points] for name in names}
    return {name: values for name, values in made.items() if any(v is not None for v in values)}


def _short(name: str, value: float | None) -> float | None:
    """Round, so that a page of many runs stays small."""
    if value is None:
        return None
    rounded = float(f"{value:.{_DIGITS_X if name in _X else _DIGITS_Y}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
