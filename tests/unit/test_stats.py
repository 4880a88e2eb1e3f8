"""Statistics against values worked out by hand."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import pytest

from jobspec import compare
from worker import stats


def test_error_over_questions() -> None:
    # Means 0, ½, 1: s = ½, n = 3.
    assert stats.stderr([0.0, 0.5, 1.0]) == pytest.approx(0.5 / math.sqrt(3))
    assert stats.stderr([0.3]) is None
    assert stats.stderr([0.25, 0.25]) == 0.0


def test_sampling_error() -> None:
    # c/k = 1/4, 2/4, 4/4 of k = 4: Σ p(1−p)/(k−1) = (3/16 + 4/16 + 0)/3.
    expected = math.sqrt((3 / 16 + 4 / 16) / 3) / 3
    assert stats.sampling_stderr([1, 2, 4], 4) == pytest.approx(expected)
    assert stats.sampling_stderr([1, 0], 1) is None
    assert stats.sampling_stderr([4, 0], 4) == 0.0


@pytest.mark.parametrize(
    ("k", "correct", "j"), [(4, 1, 2), (5, 3, 3), (8, 2, 4), (6, 0, 3), (6, 6, 1)]
)
def test_pass_at_j_is_the_fraction_of_subsets_with_a_right_sample(
    k: int, correct: int, j: int
) -> None:
    samples = [True] * correct + [False] * (k - correct)
    subsets = list(itertools.combinations(samples, j))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert stats.pass_at(correct, k, j) == pytest.approx(expected)


def test_pass_at_one_is_the_average() -> None:
    assert stats.pass_at(7, 32, 1) == pytest.approx(7 / 32)


@pytest.mark.parametrize(
    ("k", "expected"),
    [(1, (1,)), (2, (1, 2)), (4, (1, 2, 4)), (6, (1, 2, 4, 6)), (32, (1, 2, 4, 8, 16, 32))],
)
def test_reported_js(k: int, expected: tuple[int, ...]) -> None:
    assert stats.pass_at_js(k) == expected


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
    assert stats.majority(answers, correct) == pytest.approx(expected)


# Student's t, two-sided 95 %: the tables' values.
@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (7, 2.3646), (29, 2.0452), (499, 1.9647)]
)
def test_t_quantile(freedom: int, expected: float) -> None:
    assert compare.t_quantile(freedom) == pytest.approx(expected, abs=5e-5)


def test_intervals() -> None:
    z = NormalDist().inv_cdf(0.975)
    assert compare.interval(0.5, 0.1) == pytest.approx((0.5 - z * 0.1, 0.5 + z * 0.1))
    assert compare.interval(0.5, 0.1, 29) == pytest.approx((0.29548, 0.70452), abs=1e-5)
    assert compare.interval(0.5, None) == (None, None)


def test_comparison_pairs_by_question() -> None:
    a = {"x": [True, False], "y": [False, False], "only a": [True, True]}
    b = {"y": [True, False], "x": [True, True], "only b": [False, False]}
    found = compare.compare(a, b)
    assert found is not None
    assert (found.questions, found.only_a, found.only_b) == (2, 1, 1)
    assert (found.a, found.b, found.mean) == (0.25, 0.75, 0.5)
    # Both questions gained ½: no spread over questions.
    assert (found.low, found.high) == (0.5, 0.5)
    # Σ p(1−p)/(k−1) over both sides = ¼ + 0 + 0 + ¼.
    z = NormalDist().inv_cdf(0.975)
    noise = math.sqrt(0.5) / 2
    assert found.sampling_low == pytest.approx(0.5 - z * noise)
    assert found.sampling_high == pytest.approx(0.5 + z * noise)
    assert not found.beyond_noise


def test_comparison_of_single_samples_uses_the_spread_over_questions() -> None:
    a = {str(i): [i < 10] for i in range(100)}
    b = {str(i): [i < 60] for i in range(100)}
    found = compare.compare(a, b)
    assert found is not None
    assert found.sampling_low is None
    error = math.sqrt(0.5 * 0.5 * 100 / 99 / 100)
    t = compare.t_quantile(99)
    assert (found.low, found.high) == pytest.approx((0.5 - t * error, 0.5 + t * error))
    assert found.beyond_noise
    same = compare.compare(a, a)
    assert same is not None
    assert (same.mean, same.beyond_noise) == (0.0, False)


def test_nothing_in_common_can_not_be_compared() -> None:
    assert compare.compare({"x": [True]}, {"y": [True]}) is None
