"""The confidence sequence: its capital is a fair bet, it holds at all times, and it is narrow."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from jobspec.results import confidence, confidence_sequence
from jobspec.results.confidence_sequence import ConfidenceSequence

REPEATS = 200


@pytest.mark.parametrize("chances", [(0.5, 0.5), (0.0, 1.0), (0.9, 0.2), (0.02, 0.1)])
@pytest.mark.parametrize("half_width", [0.02, 0.3])
def test_the_capital_of_the_true_mean_is_expected_to_shrink(
    chances: tuple[float, float], half_width: float
) -> None:
    """All outcomes of three rounds of two questions, with their exact probabilities."""
    expected = {+1: 0.0, -1: 0.0}
    for outcomes in itertools.product((False, True), repeat=6):
        sequence, probability = ConfidenceSequence(2, half_width), 1.0
        for first in (0, 2, 4):
            sequence.add(outcomes[first : first + 2])
        for index, right in enumerate(outcomes):
            probability *= chances[index % 2] if right else 1 - chances[index % 2]
        for side, bets in ((+1, sequence._higher), (-1, sequence._lower)):
            capital = confidence_sequence._log_capital(bets, sum(chances) / 2, side)
            expected[side] += probability * math.exp(capital)
    assert all(0.5 < value <= 1 + 1e-12 for value in expected.values())


def test_no_factor_can_be_negative() -> None:
    draw = random.Random(0)
    for _ in range(50):
        sequence = ConfidenceSequence(3, draw.choice([0.001, 0.1, 0.49]))
        chances = [draw.choice([0.0, 0.5, 1.0]) for _ in range(3)]
        for _ in range(30):
            sequence.add([draw.random() < chance for chance in chances])
        for bets, side in ((sequence._higher, +1), (sequence._lower, -1)):
            for (bet, value), mean in itertools.product(bets, (0.0, 1.0)):
                assert 1 + side * bet * (value - mean) >= 0.25 - 1e-12


def test_it_holds_the_truth_at_all_times() -> None:
    """An interval for a fixed number of samples, looked at as often, does not."""
    draw, missed, naive = random.Random(1), 0, 0
    for _ in range(REPEATS):
        chances = [draw.betavariate(0.5, 0.5) for _ in range(5)]
        truth, sequence = math.fsum(chances) / 5, ConfidenceSequence(5, 0.15)
        right, outside, naively_outside = [0] * 5, False, False
        for rounds in range(1, 17):
            outcomes = [draw.random() < chance for chance in chances]
            sequence.add(outcomes)
            right = [count + new for count, new in zip(right, outcomes, strict=True)]
            low, high = sequence.bounds()
            outside = outside or not low <= truth <= high
            if rounds > 1:
                error = confidence.sampling_stderr([(count, rounds) for count in right])
                ends = confidence.over_samples(sum(right) / rounds / 5, error, 5 * rounds)
                assert ends[0] is not None and ends[1] is not None
                naively_outside = naively_outside or not ends[0] <= truth <= ends[1]
        missed += outside
        naive += naively_outside
    assert missed <= 20  # 10 are allowed on average; 20 is the 99.9 % quantile
    assert naive > 30


@pytest.mark.parametrize("chance", [0.0, 0.01, 0.5, 0.9, 1.0])
def test_it_needs_few_samples_more_than_an_interval_for_a_known_number(chance: float) -> None:
    draw, sequence, rounds = random.Random(3), ConfidenceSequence(30, 0.05), 0
    low, high = sequence.bounds()
    assert (low, high) == (0.0, 1.0)
    right = 0
    while high - low > 0.1:
        outcomes = [draw.random() < chance for _ in range(30)]
        right += sum(outcomes)
        rounds += 1
        sequence.add(outcomes)
        low, high = sequence.bounds()
        assert low <= right / rounds / 30 <= high
    variance = max(chance * (1 - chance), 0.05 * 0.95)
    assert rounds <= 2.5 * 1.96**2 * variance / 0.05**2 / 30 + 1


def test_questions_that_are_always_right_or_wrong_add_almost_no_width() -> None:
    outcomes = [[True] * 16] * 15 + [[False] * 16] * 15
    low, high = confidence_sequence.bounds(outcomes, 0.05)
    alternating = [[bool((i + j) % 2) for j in range(16)] for i in range(30)]
    other_low, other_high = confidence_sequence.bounds(alternating, 0.05)
    assert low < 0.5 < high
    assert high - low < 0.6 * (other_high - other_low)
