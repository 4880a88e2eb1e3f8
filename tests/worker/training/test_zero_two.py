"""Less memory under ZeRO-2: split groups keep every parameter, gradients in place every loss."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest
import torch

from jobspec.estimates import memory
from tests.support.commands import run_checked
from tests.support.paths import REPOSITORY
from worker.training import zero_two

# The C library returns freed memory at once, so that the resident set is what tensors take.
FREES_AT_ONCE = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
}


def run(how: str) -> dict[str, Any]:
    command = [sys.executable, "tests/support/step_memory.py", how]
    env = os.environ | FREES_AT_ONCE | {"DS_ACCELERATOR": "cpu", "PYTHONPATH": str(REPOSITORY)}
    return json.loads(run_checked(command, env=env).splitlines()[-1])


@pytest.mark.deepspeed
def test_a_step_of_several_micro_batches_takes_less_memory_and_has_the_same_losses() -> None:
    saved, plain = run("saved"), run("plain")
    # The gradients' norm is summed in another order, so that clipping may round in another way.
    assert saved["losses"] == pytest.approx(plain["losses"], rel=1e-6)
    assert saved["losses"][0] != saved["losses"][1]
    assert saved["bytes_a_weight"] < plain["bytes_a_weight"] - 5


def groups(*sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """A group of parameters of these sizes each; the first with weight decay."""
    return [
        {"params": [torch.zeros(size) for size in each], "weight_decay": decay, "lr": 1.0}
        for each, decay in zip(sizes, (0.1, 0.0), strict=False)
    ]


def sizes(split: list[dict[str, Any]]) -> list[tuple[float, list[int]]]:
    return [(each["weight_decay"], [p.numel() for p in each["params"]]) for each in split]


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (100, [(0.1, [9, 3, 3, 4]), (0.0, [2, 2])]),
        (10, [(0.1, [9]), (0.1, [3, 3, 4]), (0.0, [2, 2])]),
        (6, [(0.1, [9]), (0.1, [3, 3]), (0.1, [4]), (0.0, [2, 2])]),
        (2, [(0.1, [9]), (0.1, [3]), (0.1, [3]), (0.1, [4]), (0.0, [2]), (0.0, [2])]),
    ],
)
def test_groups_are_split_in_order(most: int, expected: list[Any]) -> None:
    given = groups((9, 3, 3, 4), (2, 2))
    split = zero_two.split_groups(given, most)
    assert sizes(split) == expected
    assert zero_two.split_groups(split, most) == split
    parameters = [p for each in split for p in each["params"]]
    assert [id(p) for p in parameters] == [id(p) for each in given for p in each["params"]]
    assert all(each["lr"] == 1.0 for each in split)


def test_an_empty_group_is_left_out() -> None:
    assert sizes(zero_two.split_groups(groups((4,), ()), 10)) == [(0.1, [4])]


def test_a_device_updates_at_most_a_sixteenth_of_the_weights() -> None:
    assert memory.group_elements(1_600, 1) == 100
    assert memory.group_elements(1_600, 4) == 400
    assert memory.group_elements(70_000_000_000, 2) == 1_000_000_000
    assert memory.group_elements(3, 1) == 1
