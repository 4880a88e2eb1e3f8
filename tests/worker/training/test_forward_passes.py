"""Which node is slow, by the time of each rank's forward passes."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
import torch.distributed as dist
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from worker.training.flops import FlopModel
from worker.training.records import SlowestNode
from worker.training.throughput import CpuEvent, ForwardClock, compared_hosts, slowest_node

FLOPS = FlopModel(body=1000, head=100, attention_width=16, windows=(None, None))


def micro(*rows: int, trained: int = 4, packed: bool = False) -> dict[str, Any]:
    """A micro-batch of rows, padded or packed."""
    shape = (1, sum(rows)) if packed else (len(rows), max(rows))
    line = {"input_ids": torch.zeros(shape, dtype=torch.long), "targets": torch.zeros(trained)}
    return line | ({"row_lengths": rows} if packed else {})


def test_a_step_has_the_seconds_and_the_work_of_its_own_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = ForwardClock(FLOPS, CpuEvent)
    for given in (micro(10, 20), micro(10, 20, trained=7, packed=True)):
        with clock.timing(given):
            now += 0.5
        now += 8.0  # a backward pass
    seconds, work = clock.end_step()
    assert seconds == 1.0
    assert work == FLOPS.forward([20, 20], 4) + FLOPS.forward([10, 20], 7)
    with clock.timing(micro(5)):
        now += 0.25
    assert clock.end_step() == (0.25, FLOPS.forward([5], 4))


class DeviceEvent(CpuEvent):
    """An event of a device that lags behind: it has reached what was recorded before `reached`."""

    reached = 0.0

    def query(self) -> bool:
        return self._at < DeviceEvent.reached


def test_what_a_gpu_has_not_done_yet_is_told_with_a_later_step() -> None:
    clock = ForwardClock(FLOPS, DeviceEvent)
    found: list[float] = []
    for tokens in (10, 20, 30):
        with clock.timing(micro(tokens)):
            pass
        found.append(clock.end_step()[1])
        DeviceEvent.reached = time.perf_counter()  # after the step has ended
    assert found == [0.0, FLOPS.forward([10], 4), FLOPS.forward([20], 4)]


HOSTS = ("node0", "node1", "node2")


def test_a_node_is_as_slow_as_its_slowest_rank() -> None:
    work = [100.0] * 6
    found = slowest_node(HOSTS, [1.0, 1.0, 1.0, 2.5, 1.0, 1.0], work)
    assert found == SlowestNode("node1", 0.4)
    assert slowest_node(HOSTS[:2], [1.0, 4.0], work[:2]) == SlowestNode("node1", 0.25)
    assert slowest_node(HOSTS[:2], [4.0, 1.0], work[:2]) == SlowestNode("node0", 0.25)


@pytest.mark.parametrize(
    ("seconds", "work", "share"),
    [
        ([1.0, 1.0, 2.0], [100.0, 100.0, 200.0], 1.0),
        ([1.0, 1.0, 1.0], [100.0, 100.0, 50.0], 1.0),
        ([1.0, 1.0, 2.0], [100.0, 100.0, 50.0], 0.5),
        ([1.0, 1.0, 4.0], [100.0, 100.0, 200.0], 0.5),
        ([1.0, 1.0, 1.0, 1.0, 2.0, 2.0], [100.0, 50.0, 100.0, 50.0, 100.0, 100.0], 1.0),
        ([1.0, 2.0, 1.0, 2.0, 2.0, 2.0], [100.0, 200.0, 100.0, 200.0, 100.0, 100.0], 1.0),
    ],
    ids=[
        *("more work", "short passes", "less work, slow", "more work, slow"),
        *("others' lowest rate", "others' longest passes"),
    ],
)
def test_unequal_work_makes_no_node_slow(
    seconds: list[float], work: list[float], share: float
) -> None:
    found = slowest_node(HOSTS, seconds, work)
    assert found is not None and found.share == share
    assert share == 1.0 or found.host == "node2"


def test_a_step_that_was_not_measured_on_a_rank_is_not_judged() -> None:
    assert slowest_node(HOSTS, [1.0, 0.0, 1.0], [100.0, 0.0, 100.0]) is None
    assert slowest_node((), [1.0, 2.0], [100.0, 100.0]) is None


@pytest.mark.parametrize(
    ("here", "sharing", "zero_stage"),
    [(4, 1, 2), (2, 4, 2), (1, 2, 2), (2, 1, 3)],
    ids=["one node", "rows shared by all", "rows shared by two nodes", "ZeRO-3"],
)
def test_nodes_that_wait_for_each_other_in_forward_passes_are_not_compared(
    monkeypatch: pytest.MonkeyPatch, here: int, sharing: int, zero_stage: int
) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    config = HfDeepSpeedConfig({"zero_optimization": {"stage": zero_stage}})
    assert compared_hosts(sharing) == ()
    del config
