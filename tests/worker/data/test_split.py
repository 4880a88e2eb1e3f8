"""Which prompts are held out: whole ones, and as near to the requested share as these allow."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.data import split

# The held-out rows of 200 rows with different prompts, by share and seed. They may never change:
# a job that is enqueued again would be trained on other rows.
SINGLE = {
    (0.05, 42): [2, 23, 64, 75, 88, 99, 122, 171, 173, 175],
    (0.012, 7): [21, 149],
    (0.001, 3): [115],
}


def prompts_of(sizes: list[int]) -> list[bytes]:
    """The prompt of each row, where prompt i has `sizes[i]` rows."""
    return [b"%d" % number for number, size in enumerate(sizes) for _ in range(size)]


def held_out(sizes: list[int], ratio: float, seed: int = 42) -> list[int]:
    """The sizes of the prompts that are held out."""
    return [sizes[int(key)] for key in split.choose_held_out(prompts_of(sizes), ratio, seed)]


@pytest.mark.parametrize(
    ("sizes", "ratio", "count"),
    [
        ([30, 2], 0.05, 2),
        ([2, 30], 0.05, 2),
        ([30, 30, 1], 0.05, 1),
        ([30, 4, 4, 4], 0.1, 4),
        ([100, 50, 3, 3], 0.03, 6),
        ([9, 9, 9, 2], 0.4, 11),
        ([10, 9, 6, 5], 0.5, 15),
        ([40, 40], 0.05, 40),  # at least one prompt
        ([1, 1, 1], 0.9, 2),  # never all
    ],
)
def test_whole_prompts_come_as_near_to_the_share_as_they_can(
    sizes: list[int], ratio: float, count: int
) -> None:
    for seed in range(30):
        assert sum(held_out(sizes, ratio, seed)) == count


@pytest.mark.parametrize(("ratio", "seed"), SINGLE)
def test_rows_with_a_prompt_each_are_split_as_ever(ratio: float, seed: int) -> None:
    chosen = split.choose_held_out(prompts_of([1] * 200), ratio, seed)
    assert sorted(map(int, chosen)) == SINGLE[ratio, seed]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=9),
    ratio=st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.2, 1 / 3, 0.5]),
    seed=st.integers(0, 1000),
)
def test_no_other_choice_of_whole_prompts_comes_nearer(
    sizes: list[int], ratio: float, seed: int
) -> None:
    chosen = held_out(sizes, ratio, seed)
    target = ratio * sum(sizes)
    choices = (itertools.combinations(sizes, n) for n in range(1, len(sizes)))
    nearest = min(abs(sum(choice) - target) for many in choices for choice in many)
    assert abs(abs(sum(chosen) - target) - nearest) < 1e-9
    assert 0 < len(chosen) < len(sizes)


@given(
    sizes=st.lists(st.integers(1, 40), max_size=30),
    ratio=st.floats(0, 0.5),
    seed=st.integers(0, 1000),
    mixed=st.randoms(),
)
def test_the_choice_does_not_depend_on_the_order_of_the_rows(
    sizes: list[int], ratio: float, seed: int, mixed: random.Random
) -> None:
    prompts = prompts_of(sizes)
    chosen = split.choose_held_out(prompts, ratio, seed)
    mixed.shuffle(prompts)
    assert split.choose_held_out(prompts, ratio, seed) == chosen
