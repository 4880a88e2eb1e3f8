"""Whether a difference between two evaluations is luck, and how much more would decide that.

The questions are the same in both, so tests are within questions. With right and wrong answers it
is the Cochran-Mantel-Haenszel test, whose strata are the questions; with one sample a question on
each side that is McNemar's test, computed exactly. Other numbers, such as a log-likelihood for each
question, get Student's paired t-test. All are two-sided.

Sources: Mantel and Haenszel 1959, Journal of the National Cancer Institute 22, 719-748; McNemar
1947, Psychometrika 12, 153-157.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import msgspec

from jobspec.results import confidence

POWER = 0.8
_NORMAL = NormalDist()
_MOST = 10**9

# For each question its outcomes: 1 for a right sample, 0 for a wrong one, or any other number.
Outcomes = Sequence[Sequence[float]]


class Significance(msgspec.Struct, frozen=True):
    """How likely a difference at least as large is by luck alone, and the test that says so."""

    p_value: float
    test: str


def of_difference(a: Outcomes, b: Outcomes) -> Significance | None:
    """Test the difference of two evaluations of the same questions in the same order.

    Returns:
        None if it can't be tested: a single question with numbers other than right and wrong.
    """
    if any(value not in (0, 1) for side in (a, b) for question in side for value in question):
        p_value = _paired_t([_mean(each) for each in a], [_mean(each) for each in b])
        return None if p_value is None else Significance(p_value, "paired t-test")
    if all(len(each) == 1 for side in (a, b) for each in side):
        return Significance(_mcnemar(a, b), "McNemar's exact test")
    return Significance(_mantel_haenszel(a, b), "Cochran-Mantel-Haenszel test")


def needed(difference: float, error: float | None, now: int) -> int | None:
    """How many samples, or questions, would show a difference of this size.

    With that many, the 95 % interval excludes zero in four of five evaluations, if the real
    difference is the one that was measured.

    Args:
        error: the standard error of the difference, which falls with the root of the number.
        now: how many there are.

    Returns:
        At least `now`; None if the difference or its error is 0, or if more than 10^9 are needed.
    """
    if not difference or not error:
        return None
    wanted = _NORMAL.inv_cdf((1 + confidence.CONFIDENCE) / 2) + _NORMAL.inv_cdf(POWER)
    count = now * (wanted * error / difference) ** 2
    return max(now, math.ceil(count)) if count <= _MOST else None


def _mcnemar(a: Outcomes, b: Outcomes) -> float:
    """Among questions with different outcomes, either side is right in half of them by chance."""
    better = sum(y[0] > x[0] for x, y in zip(a, b, strict=True))
    worse = sum(y[0] < x[0] for x, y in zip(a, b, strict=True))
    changed, fewer = better + worse, min(better, worse)
    tail = sum(math.comb(changed, i) for i in range(fewer + 1))
    return min(1.0, 2 * tail / 2**changed)


def _mantel_haenszel(a: Outcomes, b: Outcomes) -> float:
    """Given the right answers of a question, they fall on either side as in a draw from an urn.

    The half that is subtracted is the correction for continuity.
    """
    gap = variance = 0.0
    for x, y in zip(a, b, strict=True):
        right, total = sum(x) + sum(y), len(x) + len(y)
        gap += sum(y) - right * len(y) / total
        spread = len(x) * len(y) * right * (total - right)
        variance += spread / (total**2 * (total - 1))
    if not variance:
        return 1.0
    score = max(0.0, abs(gap) - 0.5) / math.sqrt(variance)
    return 2 * (1 - _NORMAL.cdf(score))


def _paired_t(a: Sequence[float], b: Sequence[float]) -> float | None:
    gaps = [y - x for x, y in zip(a, b, strict=True)]
    error = confidence.stderr(gaps)
    if error is None:
        return None
    mean = math.fsum(gaps) / len(gaps)
    if not error:
        return 1.0 if not mean else 0.0
    return confidence.t_tail(mean / error, len(gaps) - 1)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def spell_probability(p_value: float) -> str:
    """A p-value with two digits; one below 0.0001 as such, because its digits mean nothing."""
    return f"{p_value:.2g}" if p_value >= 1e-4 else "<0.0001"
