"""The tests of a difference against published values, and their errors over many repeats."""

from __future__ import annotations

import math
import random

import pytest

from jobspec.results import comparison, confidence, significance

REPEATS = 200


def paired(both: int, only_a: int, only_b: int, neither: int) -> list[list[list[float]]]:
    """Outcomes of one sample a question on each side."""
    counts = [((1.0, 1.0), both), ((1.0, 0.0), only_a), ((0.0, 1.0), only_b), ((0.0, 0.0), neither)]
    rows = [pair for pair, count in counts for _ in range(count)]
    return [[[row[side]] for row in rows] for side in (0, 1)]


# Fay 2011, The R Journal 2(1), 53–58: 21 and 9 discordant pairs give p = 0.04277.
@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"), [(21, 9, 0.04277), (5, 5, 1.0), (0, 6, 2 / 64), (0, 0, 1.0)]
)
def test_mcnemars_exact_test(only_a: int, only_b: int, expected: float) -> None:
    found = significance.of_difference(*paired(10, only_a, only_b, 7))
    assert found is not None and found.test == "McNemar's exact test"
    assert found.p_value == pytest.approx(expected, abs=5e-6)


def test_the_cochran_mantel_haenszel_test() -> None:
    # One question: 2 of 10 and 8 of 10 right. By hand: E = 5, variance = 10·10·10·10/(400·19),
    # (3 − ½)²/variance = 4.75, and the square root's two-sided normal tail.
    a, b = [[1.0] * 2 + [0.0] * 8], [[1.0] * 8 + [0.0] * 2]
    found = significance.of_difference(a, b)
    assert found is not None and found.test == "Cochran-Mantel-Haenszel test"
    assert found.p_value == pytest.approx(math.erfc(math.sqrt(4.75 / 2)), rel=1e-9)
    assert significance.of_difference([[1.0, 1.0]], [[1.0, 1.0]]) == significance.Significance(
        1.0, found.test
    )


def test_numbers_that_are_no_outcomes_get_a_t_test() -> None:
    # Student's data on sleep (1908), as in R's t.test(paired = TRUE): t = 4.0621, p = 0.002833.
    a = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    b = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = significance.of_difference([[x] for x in a], [[x] for x in b])
    assert found is not None and found.test == "paired t-test"
    assert found.p_value == pytest.approx(0.002833, abs=5e-7)
    named = [{str(i): [x] for i, x in enumerate(side)} for side in (a, b)]
    difference = comparison.compare(*named, higher_is_better=False)
    assert difference is not None and not difference.higher_is_better
    # R's interval for the difference: 0.7001 to 2.4599.
    assert (difference.low, difference.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
    assert significance.of_difference([[0.5]], [[0.7]]) is None


def test_how_many_samples_would_decide() -> None:
    # (1.959964 + 0.841621)² = 7.848879 times (error / difference)².
    assert significance.needed(0.1, 0.05, 8) == math.ceil(8 * 7.848879 / 4)
    assert significance.needed(-0.1, 0.05, 8) == significance.needed(0.1, 0.05, 8)
    assert significance.needed(0.5, 0.01, 8) == 8
    assert significance.needed(0.0, 0.05, 8) is None
    assert significance.needed(1e-9, 0.05, 8) is None


class MockModel:
    """Answers each question rightly with a probability of its own."""

    def __init__(self, chances: list[float], draw: random.Random) -> None:
        self.chances = chances
        self.draw = draw

    @property
    def mean(self) -> float:
        return math.fsum(self.chances) / len(self.chances)

    def sample(self, k: int) -> dict[str, list[float]]:
        return {
            str(i): [float(self.draw.random() < chance) for _ in range(k)]
            for i, chance in enumerate(self.chances)
        }


def chances(draw: random.Random, count: int) -> list[float]:
    """Many easy and many hard questions, as benchmarks have."""
    return [draw.betavariate(0.6, 0.6) for _ in range(count)]


@pytest.mark.parametrize("k", [2, 8])
def test_intervals_over_samples_have_their_coverage(k: int) -> None:
    draw, covered, ours = random.Random(1), 0, 0
    for _ in range(REPEATS):
        easy = chances(draw, 30)
        a, b = MockModel(easy, draw), MockModel([p + 0.15 * (1 - p) for p in easy], draw)
        found = comparison.compare(a.sample(k), b.sample(k))
        assert found is not None and found.sampling_low is not None
        assert found.sampling_high is not None
        covered += found.sampling_low <= b.mean - a.mean <= found.sampling_high
        counts = [(int(sum(each)), k) for each in a.sample(k).values()]
        mean = sum(right for right, _ in counts) / (30 * k)
        error = confidence.sampling_stderr(counts)
        low, high = confidence.over_samples(mean, error, 30 * k)
        assert low is not None and high is not None
        ours += low <= a.mean <= high
    # Of 200 intervals of 95 %, between 182 and 200 hold the truth in 99.8 % of cases.
    assert 182 <= covered <= REPEATS and 182 <= ours <= REPEATS


@pytest.mark.parametrize("k", [1, 8])
def test_intervals_over_questions_have_their_coverage(k: int) -> None:
    draw, covered = random.Random(2), 0
    for _ in range(REPEATS):
        easy = chances(draw, 60)
        a, b = MockModel(easy, draw), MockModel([p + 0.1 * (1 - p) for p in easy], draw)
        found = comparison.compare(a.sample(k), b.sample(k))
        assert found is not None and found.low is not None and found.high is not None
        covered += found.low <= 0.05 <= found.high  # 0.1 · (1 − ½): the mean of all questions
    assert 182 <= covered <= REPEATS


@pytest.mark.parametrize("k", [1, 8])
def test_equal_models_seldom_differ_significantly(k: int) -> None:
    draw, significant = random.Random(3), 0
    for _ in range(REPEATS):
        easy = chances(draw, 40)
        found = comparison.compare(MockModel(easy, draw).sample(k), MockModel(easy, draw).sample(k))
        assert found is not None and found.p_value is not None
        significant += found.p_value < 0.05
    assert significant <= 20  # 10 are expected; 20 is the 99.9 % quantile


def test_the_samples_that_are_needed_do_decide() -> None:
    draw = random.Random(4)
    easy = chances(draw, 40)
    a, b = MockModel(easy, draw), MockModel([p + 0.06 * (1 - p) for p in easy], draw)
    spread = [math.fsum(p * (1 - p) for p in m.chances) / 8 for m in (a, b)]
    error = math.sqrt(sum(spread)) / 40
    k = significance.needed(b.mean - a.mean, error, 8)
    assert k is not None and 20 < k < 400
    decided = 0
    for _ in range(50):
        found = comparison.compare(a.sample(k), b.sample(k))
        assert found is not None
        decided += found.beyond_noise
    assert 31 <= decided <= 48  # 40 of 50 are expected
