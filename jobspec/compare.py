"""Intervals and paired comparison of two evaluations, question by question; pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import msgspec

CONFIDENCE = 0.95


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How much better B is than A on the questions both answered.

    `low`, `high`: 95 % interval of `mean` over questions of this kind. `sampling_low`,
    `sampling_high`: over other samples of these same questions; None where a question has one
    sample only. `beyond_noise`: the narrower of them that exists leaves out zero.
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
        a: whether each sample was right, by question id.
        b: the same of the other evaluation.

    Returns:
        The difference B − A; None where they share no question.
    """
    shared = [name for name in a if name in b and a[name] and b[name]]
    if not shared:
        return None
    means_a = [_mean(a[name]) for name in shared]
    means_b = [_mean(b[name]) for name in shared]
    gaps = [y - x for x, y in zip(means_a, means_b, strict=True)]
    centre = math.fsum(gaps) / len(gaps)
    low, high = interval(centre, stderr(gaps), len(gaps) - 1)
    noise = _sampling_stderr(a, b, shared)
    sampling_low, sampling_high = interval(centre, noise)
    bounds = (low, high) if noise is None else (sampling_low, sampling_high)
    return Difference(
        questions=len(shared),
        only_a=len(a) - len(shared),
        only_b=len(b) - len(shared),
        a=math.fsum(means_a) / len(shared),
        b=math.fsum(means_b) / len(shared),
        mean=centre,
        low=low,
        high=high,
        sampling_low=sampling_low,
        sampling_high=sampling_high,
        beyond_noise=_leaves_out_zero(bounds),
    )


def stderr(values: Sequence[float]) -> float | None:
    """The standard error of the mean, s/√n; None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    centre = math.fsum(values) / n
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (n - 1) / n)


def interval(
    centre: float, error: float | None, freedom: int | None = None
) -> tuple[float | None, float | None]:
    """The 95 % interval around `centre`: Student's t where `freedom` is given, else normal."""
    if error is None:
        return None, None
    z = t_quantile(freedom) if freedom else NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    return centre - z * error, centre + z * error


def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Student's t: the half-width, in standard errors, that holds `confidence` of the mass."""
    low, high = 0.0, 1e4
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        if 1 - _beta(freedom / (freedom + middle**2), freedom / 2, 0.5) < confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function, by Lentz's continued fraction.

    Source: Press et al., Numerical Recipes, 3rd edition, section 6.4.
    """
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    return front * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d, tiny)
            c = _away_from_zero(1 + term / c, tiny)
            step = c * d
            result *= step
        if abs(step - 1) < 1e-15:
            break
    return result


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny


def _mean(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes)


def _sampling_stderr(
    a: Mapping[str, Sequence[bool]], b: Mapping[str, Sequence[bool]], shared: Sequence[str]
) -> float | None:
    sides = [side[name] for name in shared for side in (a, b)]
    if any(len(outcomes) < 2 for outcomes in sides):
        return None
    means = [(_mean(outcomes), len(outcomes)) for outcomes in sides]
    return math.sqrt(math.fsum(p * (1 - p) / (k - 1) for p, k in means)) / len(shared)


def _leaves_out_zero(bounds: tuple[float | None, float | None]) -> bool:
    low, high = bounds
    return low is not None and high is not None and (low > 0 or high < 0)
