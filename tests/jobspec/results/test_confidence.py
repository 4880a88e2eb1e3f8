"""Intervals of scores and differences, compared with published values and edge cases."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest

from jobspec.results import confidence
from jobspec.results.confidence import Side

Z = NormalDist().inv_cdf(0.975)


# Student's t, two-sided 95 %: the tables' values.
@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (7, 2.3646), (29, 2.0452), (499, 1.9647)]
)
def test_t_quantile(freedom: int, expected: float) -> None:
    assert confidence.t_quantile(freedom) == pytest.approx(expected, abs=5e-5)


def test_error_over_questions() -> None:
    # Means 0, ½, 1: s = ½, n = 3.
    assert confidence.stderr([0.0, 0.5, 1.0]) == pytest.approx(0.5 / math.sqrt(3))
    assert confidence.stderr([0.3]) is None
    assert confidence.stderr([0.25, 0.25]) == 0.0


def test_error_over_samples() -> None:
    # c/k = 1/4, 2/4, 4/4: Σ p(1−p)/(k−1) = (3/16 + 4/16 + 0)/3.
    expected = math.sqrt((3 / 16 + 4 / 16) / 3) / 3
    assert confidence.sampling_stderr([(1, 4), (2, 4), (4, 4)]) == pytest.approx(expected)
    assert confidence.sampling_stderr([(1, 2), (0, 2)]) == pytest.approx(math.sqrt(1 / 4) / 2)
    # Each question is weighted by its own number of samples: 1/4 of 2, 2/9 of 3.
    unequal = math.sqrt(1 / 4 + 2 / 9 / 2) / 2
    assert confidence.sampling_stderr([(1, 2), (1, 3)]) == pytest.approx(unequal)
    assert confidence.sampling_stderr([(4, 4), (0, 4)]) == 0.0
    assert confidence.sampling_stderr([(1, 1), (1, 2)]) is None


# Newcombe 1998, Statistics in Medicine 17, 857–872, table I, method 3.
@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611),
     (1, 29, 0.0061, 0.1718)],
)  # fmt: skip
def test_wilsons_interval_is_the_published_one(
    right: int, of: int, low: float, high: float
) -> None:
    assert confidence.wilson(right / of, of) == pytest.approx((low, high), abs=5e-5)


# Newcombe 1998, Statistics in Medicine 17, 873–890, table II, method 10.
@pytest.mark.parametrize(
    ("b", "a", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090),
     ((0, 10), (0, 20), -0.1611, 0.2775), ((10, 10), (0, 20), 0.6791, 1.0),
     ((10, 10), (0, 10), 0.6075, 1.0)],
)  # fmt: skip
def test_the_difference_of_independent_proportions_is_the_published_one(
    a: tuple[int, int], b: tuple[int, int], low: float, high: float
) -> None:
    sides = [Side(x / n, *confidence.wilson(x / n, n)) for x, n in (a, b)]
    assert confidence.difference(*sides) == pytest.approx((low, high), abs=5e-5)


def test_correlation_narrows_a_difference() -> None:
    a, b = Side(0.5, 0.4, 0.6), Side(0.7, 0.6, 0.8)
    # √(0.1² + 0.1² − 2·0.1·0.1·ρ): 0.1 at ½, nothing at 1.
    assert confidence.difference(a, b, 0.5) == pytest.approx((0.1, 0.3))
    assert confidence.difference(a, b, 1.0) == pytest.approx((0.2, 0.2))


def test_one_sample_per_question_gives_wilsons_interval_with_students_t() -> None:
    means = [1.0] * 9 + [0.0] * 3
    interval = confidence.over_questions(0.75, confidence.stderr(means), 12, 1)
    assert interval == pytest.approx(confidence.wilson(0.75, 12, confidence.t_quantile(11)))
    # By hand: t = 2.200985, t²/12 = 0.403695; centre 0.951847/1.403695,
    # half √(0.403695 · 0.1875 + 0.403695²/4)/1.403695.
    assert interval == pytest.approx((0.435010, 0.921192), abs=2e-6)


def test_samples_that_differ_within_questions_raise_the_effective_number() -> None:
    # Means ½ and 1, six each: p = ¾, s² = 0.75/11, error² = 0.75/132. Were each question one
    # sample, it would be 0.1875/11: three times as much, so that 12 questions are worth 36.
    error = confidence.stderr([0.5, 1.0] * 6)
    assert error == pytest.approx(math.sqrt(0.75 / 132))
    interval = confidence.over_questions(0.75, error, 12, 8)
    assert interval == pytest.approx(confidence.wilson(0.75, 36, confidence.t_quantile(11)))
    # The effective number is never more than the number of samples.
    fewer = confidence.over_questions(0.75, error, 12, 2)
    assert fewer == pytest.approx(confidence.wilson(0.75, 24, confidence.t_quantile(11)))


@pytest.mark.parametrize("k", [1, 4, 32])
def test_all_answers_right_or_all_wrong(k: int) -> None:
    # 0 of 30 questions: t²/(30 + t²), t = 2.045230; for any number of samples.
    none = confidence.over_questions(0.0, 0.0, 30, k)
    assert none == pytest.approx((0.0, 0.122370), abs=1e-6)
    assert confidence.over_questions(1.0, 0.0, 30, k) == pytest.approx(
        (1 - 0.122370, 1.0), abs=1e-6
    )
    assert none[0] == 0.0 and confidence.over_questions(1.0, 0.0, 30, k)[1] == 1.0


def test_samples_within_questions() -> None:
    # One question of two, k = 4, has 2 right: error² = (¼/3)/4 = 1/48; 8/7 · 48 · 3/16 = 72/7.
    interval = confidence.over_samples(0.25, math.sqrt(1 / 48), 8)
    assert interval == pytest.approx(confidence.wilson(0.25, 72 / 7))
    # 3 of 8 samples of one question: Wilson's interval itself.
    error = confidence.sampling_stderr([(3, 8)])
    assert confidence.over_samples(3 / 8, error, 8) == pytest.approx(confidence.wilson(3 / 8, 8))


@pytest.mark.parametrize("right", [0, 13, 25, 26])
def test_samples_that_all_agree_still_give_an_interval(right: int) -> None:
    p, kept = right / 26, 104 / (104 + Z**2)
    interval = confidence.over_samples(p, 0.0, 104)
    assert interval == pytest.approx((p * kept, 1 - (1 - p) * kept))
    if right in (0, 26):
        assert interval == pytest.approx(confidence.wilson(p, 104))


def test_unknown_numbers_of_questions_and_samples() -> None:
    assert confidence.over_questions(0.5, None, 1, 4) == (None, None)
    assert confidence.over_samples(0.5, None, 4) == (None, None)
    # For lm-eval's own tasks the number of questions is unknown.
    interval = confidence.over_questions(0.5, 0.05, None)
    assert interval == pytest.approx(confidence.wilson(0.5, 100))
    assert confidence.over_questions(0.0, 0.0, None) == (None, None)


def test_scores_that_are_no_proportions_have_students_interval() -> None:
    t = confidence.t_quantile(9)
    assert confidence.over_questions(12.5, 2.0, 10) == pytest.approx((12.5 - 2 * t, 12.5 + 2 * t))
    assert confidence.over_questions(0.5, 0.4, 10) == pytest.approx((0.5 - 0.4 * t, 0.5 + 0.4 * t))


def test_every_interval_stays_in_range_and_contains_its_score() -> None:
    draw = random.Random(0)
    for _ in range(500):
        n, k = draw.randint(2, 12), draw.choice([1, 2, 5])
        sides: list[Side] = []
        for chance in (draw.random() ** 3, 1 - draw.random() ** 3):
            means = [sum(draw.random() < chance for _ in range(k)) / k for _ in range(n)]
            mean, error = math.fsum(means) / n, confidence.stderr(means)
            low, high = confidence.over_questions(mean, error, n, k)
            assert low is not None and high is not None
            assert 0 <= low <= mean <= high <= 1 and high > low
            sides.append(Side(mean, low, high))
        low, high = confidence.difference(*sides, draw.uniform(-1, 1))
        assert -1 <= low <= sides[1].mean - sides[0].mean <= high <= 1
