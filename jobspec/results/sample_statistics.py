"""Statistics over k samples for each question: mean, pass@j, maj@k.

Their errors are in jobspec/results/confidence.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, summed without rounding error."""
    return math.fsum(values) / len(values)


def pass_at(correct: int, k: int, j: int) -> float:
    """The probability that at least one of j samples is right: the unbiased estimate from c of k.

    Source: Chen et al. 2021, arXiv:2107.03374, equation 1: 1 − C(k−c, j) / C(k, j).
    """
    return 1.0 - math.comb(k - correct, j) / math.comb(k, j)


def pass_at_js(k: int) -> tuple[int, ...]:
    """The j reported for k samples: 1, 2, 4, … and k itself."""
    powers = [2**i for i in range(k.bit_length()) if 2**i < k]
    return (*powers, k)


def majority(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Whether the most frequent answer of a question is right.

    Samples without an answer do not vote; without any vote the question counts as wrong. If several
    answers are equally frequent, the result is the fraction of them that is right.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    right = {answer for answer, ok in zip(answers, correct, strict=True) if ok}
    first = [answer for answer, count in votes.items() if count == most]
    return sum(answer in right for answer in first) / len(first)
