"""Bits of nested values: the smallest differences count, and equal bits do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from worker.audit.leaves import differs, distance, first_difference, leaves

NAN = float("nan")


def test_every_value_has_a_path() -> None:
    nested = {"a": [1, (2.0, None)], "b": {3: torch.zeros(2)}, "c": []}
    assert [path for path, _ in leaves(nested)] == ["a[0]", "a[1][0]", "a[1][1]", "b.3"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1.0, 1.0000000000000002),
        (1, 1.0),
        (True, 1),
        (0.0, None),
        ("a", "b"),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64)),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.tensor([1.0, 2.0]).bfloat16(), torch.tensor([1.0, 2.015625]).bfloat16()),
        (torch.zeros(1), "missing"),
    ],
)
def test_different_bits_differ(one: Any, other: Any) -> None:
    assert differs(one, other)
    assert differs(other, one)


@pytest.mark.parametrize(
    "value",
    [NAN, None, "a", 3, torch.tensor([NAN, 1.0]), torch.zeros(0), torch.ones(2).bfloat16()],
)
def test_equal_bits_do_not(value: Any) -> None:
    copy = value.clone() if isinstance(value, torch.Tensor) else value
    assert not differs(value, copy)


def test_the_first_difference_has_its_place_and_the_largest_its_size() -> None:
    one = torch.arange(6.0).view(2, 3)
    other = one.clone()
    other[0, 2] += 0.5
    other[1, 1] -= 2
    assert first_difference(one, other) == ("[2]", 2.0, 2.5)
    assert distance(one, other) == 2.0
    assert distance("a", 1) is None
    assert distance(torch.zeros(2), torch.zeros(3)) is None
