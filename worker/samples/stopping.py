"""Ends the sampling of a benchmark when its score is known well enough: `eval.stop_rule`.

Engines start samples of later rounds while the last ones of a round are being generated, so that no
device waits. Rounds are still judged in order, each when it is complete. The decision therefore
depends on the samples alone, and an interrupted evaluation decides the same when it goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from jobspec.records.evaluation import Generation
from jobspec.results.confidence_sequence import ConfidenceSequence
from worker.inference.requests import SampleChunk

_ROUNDS_LOOKED_AT = 50  # of the first ones every round; later ones at most 2 % apart

# Whether each sample of a round is right, by question; None if that can't be told.
Judge = Callable[[Sequence[Generation]], Sequence[bool] | None]


class StopDecision:
    """Decides for one benchmark after which round sampling ends.

    Attributes:
        last: the last round whose samples are used; None until that is known.
    """

    def __init__(
        self, half_width: float, questions: int, chunks: Sequence[SampleChunk], judge: Judge
    ) -> None:
        self._half_width = half_width
        self._sequence = ConfidenceSequence(questions, half_width)
        self._judge = judge
        self._missing = Counter(chunk.round for chunk in chunks)
        self._rows: dict[int, list[Generation]] = {}
        self._judged = 0
        self.last: int | None = None

    def add(self, chunk: SampleChunk, rows: Sequence[Generation]) -> None:
        """Take a finished chunk, and decide if it completes a round."""
        self._rows.setdefault(chunk.round, []).extend(rows)
        self._missing[chunk.round] -= 1
        while self.last is None and self._missing[self._judged] == 0 and self._judged in self._rows:
            self._judge_round()

    def wants(self, chunk: SampleChunk) -> bool:
        """Whether a chunk is used, as far as that is known."""
        return self.last is None or chunk.round <= self.last

    def _judge_round(self) -> None:
        outcomes = self._judge(self._rows.pop(self._judged))
        if outcomes is None:
            self.last = self._judged
            return
        self._sequence.add(outcomes)
        self._judged += 1
        if self._judged % max(1, self._judged // _ROUNDS_LOOKED_AT) == 0:
            low, high = self._sequence.bounds()
            if high - low <= 2 * self._half_width:
                self.last = self._judged - 1
