"""The difference between two evaluations of one benchmark."""

from __future__ import annotations

import msgspec


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How much B differs from A on the questions that both answered.

    Attributes:
        only_a: number of questions that only A answered.
        only_b: number of questions that only B answered.
        low, high: 95 % interval of `mean` over other questions of this kind.
        sampling_low, sampling_high: the same over other samples of these questions; None if a
            question has only one sample.
        beyond_noise: the interval over samples, or else over questions, does not contain zero.
        higher_is_better: false for a perplexity and other numbers that should be low.
        p_value: how likely a difference at least this large is by luck alone, by `test`; None if it
            can't be tested. It says nothing about other training seeds.
        samples_needed: samples a question on each side with which a difference of this size would
            most likely be beyond noise; None with one sample a question, or if it is unknown.
        questions_needed: the same for questions, where each has one sample.
    """

    questions: int
    only_a: int
    only_b: int
    a: float
    b: float
    mean: float
    low: float | None
    high: float | None
    sampling_low: float | None
    sampling_high: float | None
    beyond_noise: bool
    higher_is_better: bool = True
    p_value: float | None = None
    test: str | None = None
    samples_needed: int | None = None
    questions_needed: int | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval over samples, or else over questions; None if neither is known."""
        if self.sampling_low is not None and self.sampling_high is not None:
            return self.sampling_low, self.sampling_high
        if self.low is not None and self.high is not None:
            return self.low, self.high
        return None
