"""Bins of lengths: they hold every row once, in few bins with round edges."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from worker.preview import histogram

LENGTHS = {
    "none": [],
    "one": [17],
    "alike": [184] * 6,
    "near": [1000, 1003, 1009],
    "narrow": [random.Random(1).randint(300, 900) for _ in range(500)],
    "wide": [int(random.Random(i).lognormvariate(7, 1)) + 1 for i in range(500)],
    "very wide": [0, 1, 3, 90, 5000, 1_000_000],
}


@pytest.mark.parametrize("name", LENGTHS)
def test_every_row_is_in_one_of_at_most_ten_bins(name: str) -> None:
    lengths = LENGTHS[name]
    bins = histogram.count(lengths)
    assert len(bins) <= 10
    assert [sum(one.least <= length <= one.most for length in lengths) for one in bins] == [
        one.rows for one in bins
    ]
    assert sum(one.rows for one in bins) == len(lengths)
    for one, following in pairwise(bins):
        assert following.least == one.most + 1
    assert not bins or (bins[0].rows and bins[-1].rows), "no empty bin at the ends"


def test_wide_lengths_are_counted_in_powers_of_two_and_narrow_ones_in_equal_steps() -> None:
    wide = histogram.count([300, 700, 9000])
    assert [one.least for one in wide] == [256, 512, 1024, 2048, 4096, 8192]
    narrow = histogram.count([310, 700, 890])
    assert [one.least for one in narrow] == [300, 400, 500, 600, 700, 800]
