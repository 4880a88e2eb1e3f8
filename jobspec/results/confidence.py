"""95 % confidence intervals of averages over n questions with k samples each.

An average of right and wrong answers lies in [0, 1], and its interval should too. Student's t and
the normal interval can exceed these bounds: 25 right of 26 gives 0.882 to 1.041, and 26 of 26 gives
no width at all. Wilson's score interval (1927) has neither problem.

Samples of one question are not independent. Wilson's interval is therefore computed with the
effective number of samples (n divided by the design effect of the clustered standard error) and
with the quantile of Student's t with n − 1 degrees of freedom instead of the normal quantile. This
is the usual method for proportions in clustered surveys: Kott 2017, Survey Methodology 43(2);
Franco, Little, Louis and Slud 2019, Journal of Survey Statistics and Methodology 7(3), who
recommend it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import msgspec

CONFIDENCE = 0.95
_NORMAL = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)

Bounds = tuple[float | None, float | None]


class Side(msgspec.Struct, frozen=True):
    """A score and the bounds of its interval."""

    mean: float
    low: float
    high: float


def stderr(values: Sequence[float]) -> float | None:
    """The standard error of the mean, s/√n; None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    centre = math.fsum(values) / n
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (n - 1) / n)


def sampling_stderr(counts: Sequence[tuple[float, int]]) -> float | None:
    """The standard error within questions; None if a question has only one sample.

    Args:
        counts: for each question, the number c of right answers and the number k of samples.

    Returns:
        √(Σ p(1−p)/(k−1)) / n with p = c/k: the sum of each question's unbiased variance.
    """
    if any(k < 2 for _, k in counts):
        return None
    spread = math.fsum((right / k) * (1 - right / k) / (k - 1) for right, k in counts)
    return math.sqrt(spread) / len(counts)


def over_questions(
    mean: float, error: float | None, questions: int | None, k: float | None = None
) -> Bounds:
    """The interval of a score over other questions of this kind.

    The effective number of samples is n · p(1−p)/(n−1) / error². It equals n for k = 1, is at least
    n for any values from 0 to 1, and is limited to n · k, because samples of one question are at
    least as similar as samples of different questions. If all answers are right or all are wrong,
    it is n, because all samples of a question may agree.

    Args:
        error: the standard error over questions, s/√n; None gives no interval.
        questions: n; if it is None (unknown), the normal quantile is used.
        k: samples per question; None if unknown.

    Returns:
        Low and high. This is Student's t interval if `mean` and `error` are impossible for values
        from 0 to 1, as for a task that counts words.
    """
    if error is None:
        return None, None
    quantile = t_quantile(questions - 1) if questions else _NORMAL
    most = mean * (1 - mean) * (questions / (questions - 1) if questions else 1.0)
    if not 0 <= mean <= 1 or error**2 * (questions or 1) > most * (1 + 1e-6) + 1e-12:
        return mean - quantile * error, mean + quantile * error
    at_least, at_most = (questions or 0), (questions * k if questions and k else math.inf)
    if most == 0:
        return wilson(mean, at_least, quantile) if at_least else (None, None)
    effective = most / error**2 if error else math.inf
    return wilson(mean, min(max(effective, at_least), at_most), quantile)


def over_samples(mean: float, error: float | None, samples: int | None) -> Bounds:
    """The interval of a score over other samples of the same questions.

    If the samples of every question agree, `error` is 0 and gives no width. Then the Wilson
    intervals of the questions are averaged (Yan and Su 2010, Statistics in Biopharmaceutical
    Research 2(3), for strata of equal size). With m samples in total this is
    p · m/(m + z²) to 1 − (1−p) · m/(m + z²).

    Args:
        error: the standard error within questions; None gives no interval.
        samples: number of samples of all questions together; None if unknown.
    """
    if error is None:
        return None, None
    most = mean * (1 - mean)
    if not 0 <= mean <= 1 or error**2 > most:
        return mean - _NORMAL * error, mean + _NORMAL * error
    if error == 0:
        kept = samples / (samples + _NORMAL**2) if samples else 1.0
        return mean * kept, 1 - (1 - mean) * kept
    # mean(1 − mean) is biased in the same way as a variance, and error² is not.
    unbiased = most * (samples / (samples - 1) if samples and samples > 1 else 1.0)
    return wilson(mean, unbiased / error**2, _NORMAL)


def wilson(mean: float, samples: float, quantile: float = _NORMAL) -> tuple[float, float]:
    """Wilson's score interval of a proportion; a point if `samples` is infinite."""
    ratio = quantile**2 / samples
    centre = (mean + ratio / 2) / (1 + ratio)
    half = math.sqrt(ratio * mean * (1 - mean) + ratio**2 / 4) / (1 + ratio)
    return max(0.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))


def difference(a: Side, b: Side, correlation: float = 0.0) -> tuple[float, float]:
    """The interval of B − A, from the intervals of A and B, within [−1, 1].

    Args:
        correlation: of the two scores over questions.

    Source: Newcombe 1998, Statistics in Medicine 17, 2635–2650 (paired proportions, by squaring and
        adding Wilson's distances); Zou and Donner 2008, Statistics in Medicine 27, 1693–1702
        (any two parameters that have intervals of their own).
    """
    below = _added(b.mean - b.low, a.high - a.mean, correlation)
    above = _added(b.high - b.mean, a.mean - a.low, correlation)
    gap = b.mean - a.mean
    return max(-1.0, gap - below), min(1.0, gap + above)


def _added(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(0.0, one**2 + other**2 - 2 * correlation * one * other))


def of_mean(values: Sequence[float]) -> Bounds:
    """Student's interval of a mean, for values without bounds; none for fewer than two."""
    error = stderr(values)
    if error is None:
        return None, None
    centre, half = math.fsum(values) / len(values), t_quantile(len(values) - 1) * error
    return centre - half, centre + half


def normal(centre: float, error: float) -> tuple[float, float]:
    """The normal interval, for values without bounds."""
    return centre - _NORMAL * error, centre + _NORMAL * error


@cache
def t_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """The quantile of Student's t: the half-width of the interval in standard errors."""
    low, high = 0.0, 1e4
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        if 1 - t_tail(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def t_tail(t: float, freedom: float) -> float:
    """The probability that Student's t is farther from 0 than this, on either side."""
    return _beta(freedom / (freedom + t**2), freedom / 2, 0.5)


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
