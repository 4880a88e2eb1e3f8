"""Paired comparison of two evaluations, question by question. Does not read files."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import msgspec

from jobspec.results import confidence
from jobspec.results.confidence import Bounds, Side


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How much better B is than A on the questions that both answered.

    Attributes:
        only_a: number of questions that only A answered.
        only_b: number of questions that only B answered.
        low, high: 95 % interval of `mean` over other questions of this kind.
        sampling_low, sampling_high: the same over other samples of these questions; None if a
            question has only one sample.
        beyond_noise: the interval over samples, or else over questions, does not contain zero.
    """

    questions: int
    only_a: int
    only_b: int
    a: float
    b: float
    mean: float
    low: float | None
    high: float | None
    sampling_low: float | None
    sampling_high: float | None
    beyond_noise: bool


def compare(a: Mapping[str, Sequence[bool]], b: Mapping[str, Sequence[bool]]) -> Difference | None:
    """Pair two evaluations of one benchmark by question.

    Args:
        a: for each question id, whether each sample was right.
        b: the same for the other evaluation.

    Returns:
        The difference B − A; None if they have no question in common.
    """
    common = [name for name in a if name in b and a[name] and b[name]]
    if not common:
        return None
    means_a = [_mean(a[name]) for name in common]
    means_b = [_mean(b[name]) for name in common]
    sides = [[side[name] for name in common] for side in (a, b)]
    over_questions = _difference(
        [_over_questions(side) for side in sides], _correlation(means_a, means_b)
    )
    over_samples = _difference([_over_samples(side) for side in sides])
    return Difference(
        questions=len(common),
        only_a=len(a) - len(common),
        only_b=len(b) - len(common),
        a=math.fsum(means_a) / len(common),
        b=math.fsum(means_b) / len(common),
        mean=math.fsum(means_b) / len(common) - math.fsum(means_a) / len(common),
        low=over_questions[0],
        high=over_questions[1],
        sampling_low=over_samples[0],
        sampling_high=over_samples[1],
        beyond_noise=_excludes_zero(over_questions if None in over_samples else over_samples),
    )


def _mean(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes)


def _over_questions(side: Sequence[Sequence[bool]]) -> Side | None:
    means = [_mean(outcomes) for outcomes in side]
    centre, n = math.fsum(means) / len(means), len(means)
    error = confidence.stderr(means)
    return _side(centre, confidence.over_questions(centre, error, n, sum(map(len, side)) / n))


def _over_samples(side: Sequence[Sequence[bool]]) -> Side | None:
    centre, samples = math.fsum(map(_mean, side)) / len(side), sum(map(len, side))
    error = confidence.sampling_stderr([(sum(outcomes), len(outcomes)) for outcomes in side])
    return _side(centre, confidence.over_samples(centre, error, samples, samples / len(side)))


def _side(mean: float, bounds: Bounds) -> Side | None:
    low, high = bounds
    return None if low is None or high is None else Side(mean, low, high)


def _difference(sides: Sequence[Side | None], correlation: float = 0.0) -> Bounds:
    a, b = sides
    return (None, None) if a is None or b is None else confidence.difference(a, b, correlation)


def _correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's correlation over questions; 0 if all questions of a side have the same mean."""
    if len(a) < 2 or len(set(a)) == 1 or len(set(b)) == 1:
        return 0.0
    return statistics.correlation(a, b)


def _excludes_zero(bounds: Bounds) -> bool:
    low, high = bounds
    return low is not None and high is not None and (low > 0 or high < 0)
