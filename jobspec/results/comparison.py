"""Paired comparison of two evaluations, question by question. Does not read files."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import msgspec

from jobspec.results import confidence, significance
from jobspec.results.confidence import Bounds, Side
from jobspec.results.difference import Difference

_Sides = Sequence[Sequence[Sequence[float]]]  # A's and B's, by question, by sample


def compare(
    a: Mapping[str, Sequence[float]],
    b: Mapping[str, Sequence[float]],
    *,
    higher_is_better: bool = True,
) -> Difference | None:
    """Pair two evaluations of one benchmark by question.

    Args:
        a: for each question id, the value of each sample: 1 if it was right, and 0 if not.
        b: the same for the other evaluation.

    Returns:
        The difference B − A; None if they have no question in common.
    """
    common = [name for name in a if name in b and a[name] and b[name]]
    if not common:
        return None
    sides = [[side[name] for name in common] for side in (a, b)]
    means = [[_mean(values) for values in side] for side in sides]
    over_questions, over_samples = _bounds(sides, means)
    found = significance.of_difference(*sides)
    centres = [math.fsum(side) / len(common) for side in means]
    difference = Difference(
        questions=len(common),
        only_a=len(a) - len(common),
        only_b=len(b) - len(common),
        a=centres[0],
        b=centres[1],
        mean=centres[1] - centres[0],
        low=over_questions[0],
        high=over_questions[1],
        sampling_low=over_samples[0],
        sampling_high=over_samples[1],
        beyond_noise=_excludes_zero(over_questions if None in over_samples else over_samples),
        higher_is_better=higher_is_better,
        p_value=None if found is None else found.p_value,
        test=None if found is None else found.test,
    )
    return _with_needs(difference, sides, means)


def _bounds(sides: _Sides, means: Sequence[Sequence[float]]) -> tuple[Bounds, Bounds]:
    """The intervals of the difference over questions and over samples."""
    if any(not 0 <= value <= 1 for side in sides for values in side for value in values):
        gaps = [y - x for x, y in zip(*means, strict=True)]
        return confidence.of_mean(gaps), (None, None)
    return (
        _difference([_over_questions(side) for side in sides], _correlation(*means)),
        _difference([_over_samples(side) for side in sides]),
    )


def _with_needs(
    difference: Difference, sides: _Sides, means: Sequence[Sequence[float]]
) -> Difference:
    """Add how many samples, or else questions, would decide whether there is a difference."""
    errors = [confidence.sampling_stderr([(sum(v), len(v)) for v in side]) for side in sides]
    if None in errors:
        gaps = [y - x for x, y in zip(*means, strict=True)]
        count = significance.needed(difference.mean, confidence.stderr(gaps), len(gaps))
        return msgspec.structs.replace(difference, questions_needed=count)
    error = math.hypot(*(each or 0.0 for each in errors))
    k = max(len(values) for side in sides for values in side)
    count = significance.needed(difference.mean, error, k)
    return msgspec.structs.replace(difference, samples_needed=count)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _over_questions(side: Sequence[Sequence[float]]) -> Side | None:
    means = [_mean(outcomes) for outcomes in side]
    centre, n = math.fsum(means) / len(means), len(means)
    error = confidence.stderr(means)
    return _side(centre, confidence.over_questions(centre, error, n, sum(map(len, side)) / n))


def _over_samples(side: Sequence[Sequence[float]]) -> Side | None:
    centre, samples = math.fsum(map(_mean, side)) / len(side), sum(map(len, side))
    error = confidence.sampling_stderr([(sum(outcomes), len(outcomes)) for outcomes in side])
    return _side(centre, confidence.over_samples(centre, error, samples))


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
