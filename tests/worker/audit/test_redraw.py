"""Which samples an audit draws again, and where texts differ."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from worker.audit.redraw import choose_chunks, first_difference


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=60),
    st.floats(0.01, 100),
    st.integers(0, 2**32),
)
def test_the_chosen_chunks_have_the_percentage_and_no_chunk_too_many(
    sizes: list[int], percent: float, seed: int
) -> None:
    chosen = choose_chunks(sizes, percent, random.Random(seed))
    assert chosen == sorted(set(chosen)) and chosen
    total, found = sum(sizes), sum(sizes[i] for i in chosen)
    assert 100 * found >= percent * total
    if len(chosen) > 1:
        assert 100 * (found - max(sizes[i] for i in chosen)) < percent * total
    assert chosen == choose_chunks(sizes, percent, random.Random(seed))


def test_seeds_choose_other_chunks() -> None:
    chosen = {tuple(choose_chunks([8] * 100, 1, random.Random(seed))) for seed in range(20)}
    assert len(chosen) > 10


def test_the_first_character_that_differs() -> None:
    assert first_difference("abc", "abd") == 2
    assert first_difference("abc", "abcd") == 3
    assert first_difference("", "a") == 0
    assert first_difference("same", "same") == 4
