"""Texts of random words, whose frequencies and lengths are those of real training rows."""

from __future__ import annotations

import math
import random
from itertools import accumulate

VOCABULARY = 30_000
LETTERS = "etaoinshrdlcumwfgypbvk"
# The median number of words of 351 rows with reasoning traces, and the spread of its logarithm.
MEDIAN_WORDS = 933
SPREAD = 0.97


class TextSource:
    """Draws words whose frequencies follow Zipf's law."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._words = [
            "".join(rng.choices(LETTERS, k=rng.randint(2, 9))) for _ in range(VOCABULARY)
        ]
        self._weights = list(accumulate(1 / (rank + 3) for rank in range(VOCABULARY)))

    def frequent(self, count: int) -> list[str]:
        """The most frequent words."""
        return list(dict.fromkeys(self._words))[:count]

    def draw(self, count: int) -> str:
        """A text of `count` words."""
        return " ".join(self._rng.choices(self._words, cum_weights=self._weights, k=count))

    def change(self, words: str, every: int) -> str:
        """The text with one word of each `every` replaced."""
        parts = words.split()
        for at in range(0, len(parts), every):
            parts[self._rng.randrange(at, min(at + every, len(parts)))] = self._rng.choice(
                self._words
            )
        return " ".join(parts)


def draw_rows(count: int, seed: int = 0) -> list[list[dict[str, str]]]:
    """Rows of a question and an answer, as long as rows with reasoning traces are."""
    rng = random.Random(seed)
    text = TextSource(rng)
    return [
        [
            {"role": "user", "content": text.draw(rng.randint(5, 60))},
            {"role": "assistant", "content": text.draw(_answer_length(rng))},
        ]
        for _ in range(count)
    ]


def _answer_length(rng: random.Random) -> int:
    return max(8, int(rng.lognormvariate(math.log(MEDIAN_WORDS), SPREAD)))
