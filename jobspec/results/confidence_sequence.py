"""A 95 % confidence sequence of avg@k: an interval that holds after every round of samples at once.

The intervals of `jobspec.results.confidence` hold for a number of samples that was fixed before.
Sampling that ends because an interval has become narrow needs one that is valid at all times.

A round is one sample of each question. Assumed is only that samples are independent, within a
question and between questions. The questions are fixed, and each has a probability p of its own.
What is estimated is the mean m of these probabilities.

Before each round a guess g is made of every p from earlier rounds, and a bet λ is chosen. Then the
capital is multiplied by 1 + λ(x − g − m + ḡ) for each sample x, where ḡ is the mean of all guesses.
If m is the true mean, the expectations of these factors have the mean 1, and so their product is
at most 1 (arithmetic and geometric mean). The capital is therefore a nonnegative supermartingale,
and by Ville's inequality it exceeds 1/α at any time with a probability of at most α. The interval
holds every m whose capital stayed below, with half of α for bets that m is higher and for bets that
it is lower.

Source: Waudby-Smith and Ramdas 2024, Journal of the Royal Statistical Society B 86(1), 1–27
(capital processes); the guesses are control variates, so that questions which are always right or
always wrong add almost no width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from jobspec.results.confidence import CONFIDENCE

_LIMIT = math.log(2 / (1 - CONFIDENCE))
_MOST_OF_CAPITAL = 0.75  # that a factor may cost, however the samples turn out
_STEPS = 30  # of bisection: bounds to nine digits


class ConfidenceSequence:
    """The interval of the mean over fixed questions, after any number of rounds.

    Args:
        questions: how many there are.
        half_width: at which the interval should be narrowest for its number of samples. It is
            valid at any other width too.
    """

    def __init__(self, questions: int, half_width: float) -> None:
        self._half_width = half_width
        self._right = [0] * questions
        self._rounds = 0
        self._squares = 0.25  # of the errors of guesses, as if one sample had been seen
        # How often each pair (λ, x − g + ḡ) occurred, for bets that m is higher and lower.
        self._higher: Counter[tuple[float, float]] = Counter()
        self._lower: Counter[tuple[float, float]] = Counter()

    def add(self, outcomes: Sequence[bool]) -> None:
        """Add a round: whether the new sample of each question is right."""
        guesses = self._guesses()
        centre = math.fsum(guesses) / len(guesses)
        variance = self._squares / (self._rounds * len(guesses) + 1)
        wanted = self._half_width / (variance + self._half_width**2)
        higher = min(wanted, _MOST_OF_CAPITAL / (1 + max(guesses) - centre))
        lower = min(wanted, _MOST_OF_CAPITAL / (1 - min(guesses) + centre))
        for question, (right, guess) in enumerate(zip(outcomes, guesses, strict=True)):
            self._higher[higher, right - guess + centre] += 1
            self._lower[lower, right - guess + centre] += 1
            self._squares += (right - guess) ** 2
            self._right[question] += right
        self._rounds += 1

    def bounds(self) -> tuple[float, float]:
        """The interval now; it contains the mean of all samples."""
        if not self._rounds:
            return 0.0, 1.0
        mean = sum(self._right) / self._rounds / len(self._right)
        low = _boundary(self._higher, +1)
        return min(low, mean), max(_boundary(self._lower, -1), mean)

    def _guesses(self) -> list[float]:
        """Of each question's probability: its mean so far, drawn to the mean of all questions."""
        samples = self._rounds * len(self._right)
        overall = (sum(self._right) + 0.5) / (samples + 1)
        return [(right + overall) / (self._rounds + 1) for right in self._right]


def bounds(outcomes: Sequence[Sequence[bool]], half_width: float) -> tuple[float, float]:
    """The interval of complete rounds.

    Args:
        outcomes: for each question, its samples in order.
    """
    sequence = ConfidenceSequence(len(outcomes), half_width)
    for outcomes_of_round in zip(*outcomes, strict=True):
        sequence.add(outcomes_of_round)
    return sequence.bounds()


def _boundary(factors: Counter[tuple[float, float]], side: int) -> float:
    """The m at which the capital reaches its limit, which it exceeds on the far side of it."""
    inside, outside = (1.0, 0.0) if side > 0 else (0.0, 1.0)
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if _log_capital(factors, middle, side) < _LIMIT:
            inside = middle
        else:
            outside = middle
    return outside


def _log_capital(factors: Counter[tuple[float, float]], mean: float, side: int) -> float:
    return math.fsum(
        count * math.log1p(side * bet * (value - mean)) for (bet, value), count in factors.items()
    )
