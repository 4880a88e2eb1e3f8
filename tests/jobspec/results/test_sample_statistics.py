"""Statistics against values worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest

from jobspec.results import comparison, confidence
from jobspec.results import sample_statistics as metrics


def test_the_mean_loses_nothing_to_rounding() -> None:
    assert metrics.mean([1.0, 1e16, 1.0, -1e16]) == 0.5


@pytest.mark.parametrize(
    ("k", "correct", "j"), [(4, 1, 2), (5, 3, 3), (8, 2, 4), (6, 0, 3), (6, 6, 1)]
)
def test_pass_at_j_is_the_fraction_of_subsets_with_a_right_sample(
    k: int, correct: int, j: int
) -> None:
    samples = [True] * correct + [False] * (k - correct)
    subsets = list(itertools.combinations(samples, j))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert metrics.pass_at(correct, k, j) == pytest.approx(expected)


def test_pass_at_one_is_the_average() -> None:
    assert metrics.pass_at(7, 32, 1) == pytest.approx(7 / 32)


@pytest.mark.parametrize(
    ("k", "expected"),
    [(1, (1,)), (2, (1, 2)), (4, (1, 2, 4)), (6, (1, 2, 4, 6)), (32, (1, 2, 4, 8, 16, 32))],
)
def test_reported_js(k: int, expected: tuple[int, ...]) -> None:
    assert metrics.pass_at_js(k) == expected


@pytest.mark.parametrize(
    ("answers", "right", "expected"),
    [
        (["7", "7", "3"], "7", 1.0),
        (["3", "3", "7"], "7", 0.0),
        (["7", "3"], "7", 0.5),
        (["7", "3", "4", None], "7", 1 / 3),
        ([None, None, "7"], "7", 1.0),
        ([None, None], "7", 0.0),
        (["3", "4"], "7", 0.0),
    ],
)
def test_majority(answers: list[str | None], right: str, expected: float) -> None:
    correct = [answer == right for answer in answers]
    assert metrics.majority(answers, correct) == pytest.approx(expected)


def test_comparison_pairs_by_question() -> None:
    a = {"x": [True, False], "y": [False, False], "only a": [True, True]}
    b = {"y": [True, False], "x": [True, True], "only b": [False, False]}
    found = comparison.compare(a, b)
    assert found is not None
    assert (found.questions, found.only_a, found.only_b) == (2, 1, 1)
    assert (found.a, found.b, found.mean) == (0.25, 0.75, 0.5)
    # Over questions: A's interval is B's mirrored, and they go together (ρ = 1): both gained ½.
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))
    # Over samples: Σ p(1−p)/(k−1) of a side = ¼ + 0: error² = 1/16, 4/3 · 3/16 · 16 = 4 samples.
    low, high = confidence.wilson(0.25, 4)
    below, above = math.hypot(high - 0.25, high - 0.25), math.hypot(0.25 - low, 0.25 - low)
    assert found.sampling_low == pytest.approx(0.5 - below)
    assert found.sampling_high == pytest.approx(0.5 + above)
    assert not found.beyond_noise


def test_comparison_of_single_samples_uses_the_spread_over_questions() -> None:
    a = {str(i): [i < 10] for i in range(100)}
    b = {str(i): [i < 60] for i in range(100)}
    found = comparison.compare(a, b)
    assert found is not None
    assert found.sampling_low is None
    # 10 right in both, 50 in B alone, 40 in neither: ρ = (10·40 − 0)/√(10·90·60·40).
    rho = 400 / math.sqrt(10 * 90 * 60 * 40)
    t = confidence.t_quantile(99)
    (low_a, high_a), (low_b, high_b) = (confidence.wilson(p, 100, t) for p in (0.1, 0.6))
    below = [0.6 - low_b, high_a - 0.1]
    above = [high_b - 0.6, 0.1 - low_a]
    low, high = (math.sqrt(x**2 + y**2 - 2 * rho * x * y) for x, y in (below, above))
    assert (found.low, found.high) == pytest.approx((0.5 - low, 0.5 + high))
    # Close to Student's interval of the paired gaps, ½ of which are 1: 0.5 ± 0.0997.
    assert (found.low, found.high) == pytest.approx((0.4, 0.6), abs=0.02)
    assert found.beyond_noise
    same = comparison.compare(a, a)
    assert same is not None
    assert (same.mean, same.beyond_noise) == (0.0, False)


def test_nothing_in_common_can_not_be_compared() -> None:
    assert comparison.compare({"x": [True]}, {"y": [True]}) is None
