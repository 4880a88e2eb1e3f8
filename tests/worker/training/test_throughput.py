"""The time that is left, as `status` shows it."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("torch")

from worker.training.throughput import TimeLeft


@pytest.mark.parametrize("seed", range(20))
def test_after_a_minute_the_time_left_is_right_within_15_percent(seed: int) -> None:
    """Steps take 4,000 tokens a second, but have 1,000 to 60,000 tokens each."""
    draw = random.Random(seed)
    steps = [round(10 ** draw.uniform(3, 4.8)) for _ in range(600)]
    seconds = [tokens / 4000 * draw.uniform(0.9, 1.1) for tokens in steps]
    left = TimeLeft(sum(steps), evaluations=3)
    left.evaluated(30.0)
    spent, done = 0.0, 0
    for number, (tokens, step_s) in enumerate(zip(steps, seconds, strict=True)):
        spent, done = spent + step_s, done + tokens
        found = left.after_step(tokens, 5 * step_s if number == 0 else step_s, done)
        if spent > 60.0:
            expected = sum(seconds[number + 1 :]) + 2 * 30.0
            assert found == pytest.approx(expected, rel=0.15)


def test_the_first_step_is_not_counted_and_the_end_is_zero() -> None:
    left = TimeLeft(300, evaluations=0)
    assert left.after_step(100, 1000.0, 100) is None
    assert left.after_step(100, 2.0, 200) == pytest.approx(2.0)
    assert left.after_step(100, 2.0, 300) == 0.0
