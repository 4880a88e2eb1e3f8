from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.data import batching

lengths_of_rows = st.lists(st.integers(1, 500), min_size=1, max_size=200)


@given(lengths_of_rows, st.integers(0, 5), st.integers(0, 3), st.integers(1, 16))
def test_an_epoch_has_every_row_once(lengths, seed, epoch, batch_size):
    batches = batching.global_batches(lengths, seed=seed, epoch=epoch, batch_size=batch_size)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert sum(len(batch) < batch_size for batch in batches) <= 1
    again = batching.global_batches(lengths, seed=seed, epoch=epoch, batch_size=batch_size)
    assert again == batches


def test_epochs_and_seeds_differ_and_batches_are_of_like_length():
    rng = random.Random(0)
    lengths = [rng.randrange(10, 1000) for _ in range(512)]

    def batches(seed: int, epoch: int) -> list[list[int]]:
        return batching.global_batches(lengths, seed=seed, epoch=epoch, batch_size=8)

    assert batches(0, 0) != batches(0, 1) != batches(1, 1)
    spread = [
        max(lengths[r] for r in batch) - min(lengths[r] for r in batch) for batch in batches(0, 0)
    ]
    assert sum(spread) / len(spread) < 100


@given(lengths_of_rows, st.integers(1, 8), st.integers(1, 8))
def test_micro_batches_give_ranks_equal_work_and_every_row_its_weight_once(lengths, world, size):
    dealt = batching.micro_batches(range(len(lengths)), lengths, world=world, size=size)
    check(dealt, lengths, world)
    assert all(len(micro.rows) <= size for rank in dealt for micro in rank)


@pytest.mark.parametrize("padded", [False, True])
@given(lengths_of_rows, st.integers(1, 8), st.integers(1, 800))
def test_micro_batches_by_tokens_keep_rows_whole_and_hold_no_more_than_they_may(
    padded, lengths, world, max_tokens
):
    cut = batching.padded_batches if padded else batching.packed_batches
    dealt = cut(range(len(lengths)), lengths, world=world, max_tokens=max_tokens)
    check(dealt, lengths, world)
    for rank in dealt:
        for micro in rank:
            each = [lengths[row] for row in micro.rows]
            total = len(each) * max(each) if padded else sum(each)
            assert total <= max_tokens or len(micro.rows) == 1


@given(lengths_of_rows, st.integers(1, 800))
def test_rows_that_are_padded_to_a_multiple_hold_no_more_than_they_may(lengths, max_tokens):
    (cut,) = batching.padded_batches(
        range(len(lengths)), lengths, world=1, max_tokens=max_tokens, multiple=16
    )
    for micro in cut:
        longest = batching.round_up(max(lengths[row] for row in micro.rows), 16)
        assert longest % 16 == 0
        assert len(micro.rows) * longest <= max_tokens or len(micro.rows) == 1


def check(dealt, lengths, world):
    assert len(dealt) == world
    assert len({len(rank) for rank in dealt}) == 1
    weighted = [row for rank in dealt for micro in rank if micro.weight for row in micro.rows]
    assert sorted(weighted) == list(range(len(lengths)))
    fillers = [micro for rank in dealt for micro in rank if not micro.weight]
    assert len(fillers) < world


def test_packing_needs_far_fewer_micro_batches_where_rows_are_short():
    lengths = [1000] * 32
    packed = batching.packed_batches(range(32), lengths, world=2, max_tokens=8192)
    assert [len(rank) for rank in packed] == [2, 2]
