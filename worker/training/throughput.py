"""What a training step takes on this rank, and which node was the slowest in it."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from jobspec.estimates import memory
from jobspec.estimates.memory import Memory
from jobspec.models import decoder_shape
from jobspec.records.base import UNSET
from jobspec.records.metric_rows import StepRates
from jobspec.records.reports import MemoryUse
from jobspec.spec.schema import JobSpec
from worker.host import identity
from worker.training.dataset import Schedule
from worker.training.flops import FlopModel
from worker.training.records import SlowestNode, StepRecord

_RUNTIME_GIB = 0.04  # what libraries load and allocate on a CPU with the first step


class StepClock:
    """Times a step, from requesting its rows to the end of its optimizer step."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.wait_s = 0.0

    @contextlib.contextmanager
    def fetching(self) -> Iterator[None]:
        """Begin a step, and count what fetching its rows takes."""
        self._began = time.monotonic()
        yield
        self.wait_s = time.monotonic() - self._began

    @property
    def step_s(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self._began


class CpuEvent:
    """What `torch.cuda.Event` is on a GPU. A CPU has done its work when a call returns."""

    def record(self) -> None:
        self._at = time.perf_counter()

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: CpuEvent) -> float:
        """Milliseconds."""
        return 1000.0 * (end._at - self._at)


class ForwardClock:
    """Times this rank's forward passes, and counts their work.

    A step takes all ranks equally long, because they wait for each other in the backward pass. A
    forward pass contains no communication with ZeRO-0 to 2, so its time tells which rank is slow.
    """

    def __init__(self, flops: FlopModel, new_event: Callable[[], Any]) -> None:
        """Args:
        new_event: makes an event with the methods of `CpuEvent`.
        """
        self._flops = flops
        self._new_event = new_event
        self._passes: list[tuple[Any, Any]] = []
        self._work = 0.0
        self._steps = deque[tuple[list[tuple[Any, Any]], float]]()

    @contextlib.contextmanager
    def timing(self, micro: dict[str, Any]) -> Iterator[None]:
        """Time the forward pass of a micro-batch."""
        begin, end = self._new_event(), self._new_event()
        begin.record()
        yield
        end.record()
        rows, length = micro["input_ids"].shape
        lengths = micro.get("row_lengths") or [length] * rows
        self._work += self._flops.forward(lengths, len(micro["targets"]))
        self._passes.append((begin, end))

    def end_step(self) -> tuple[float, float]:
        """Seconds and FLOPs of the forward passes of a step, the oldest that was not returned.

        That is the step which ends now, or one before it if a GPU has not reached its end yet: this
        does not wait for the device. Zeros if there is none.
        """
        self._steps.append((self._passes, self._work))
        self._passes, self._work = [], 0.0
        passes, work = self._steps[0]
        if not all(end.query() for _, end in passes[-1:]):
            return 0.0, 0.0
        self._steps.popleft()
        return sum(begin.elapsed_time(end) for begin, end in passes) / 1000.0, work


def compared_hosts(sharing: int) -> tuple[str, ...]:
    """The host of each node, if their forward passes can be compared; else none.

    They cannot where a pass waits for other nodes: with ZeRO-3, and if the ranks that share rows
    are on several nodes. All ranks call it.

    Args:
        sharing: ranks that share rows (`sequence_parallel`).
    """
    world = dist.get_world_size()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if here == world or here % sharing or is_deepspeed_zero3_enabled():
        return ()
    hosts = [""] * world
    dist.all_gather_object(hosts, identity.short_host())
    return tuple(hosts[::here])


def slowest_node(
    hosts: Sequence[str], seconds: Sequence[float], work: Sequence[float]
) -> SlowestNode | None:
    """Find the node with the slowest forward passes. A node is as slow as its slowest rank.

    Ranks may have unequal work, and short passes on a GPU take as long as somewhat longer ones. So
    a rank is as slow as both its FLOPs per second and its seconds say, compared with the other
    nodes' medians.

    Args:
        hosts: of each node.
        seconds: of each rank's passes, in the order of the nodes; 0 if they were not measured.
        work: their FLOPs.

    Returns:
        None if nodes are not compared or a rank's passes were not measured.
    """
    if not hosts or min(seconds) <= 0:
        return None
    size = len(seconds) // len(hosts)
    ranks = [(flops / taken, taken) for flops, taken in zip(work, seconds, strict=True)]
    nodes = [ranks[first : first + size] for first in range(0, len(ranks), size)]
    lowest = [min(rate for rate, _ in node) for node in nodes]
    longest = [max(taken for _, taken in node) for node in nodes]
    shares: list[float] = []
    for number, node in enumerate(nodes):
        rate = statistics.median(lowest[:number] + lowest[number + 1 :])
        taken = statistics.median(longest[:number] + longest[number + 1 :])
        shares.append(min(max(own / rate, taken / own_s) for own, own_s in node))
    slowest = min(range(len(hosts)), key=shares.__getitem__)
    return SlowestNode(hosts[slowest], shares[slowest])


def peak_memory_gib() -> float:
    """This rank's high-water mark: what its device allocated, on a CPU the process's resident set.

    Source: proc_pid_status(5), VmHWM; unlike getrusage's figure `execve` resets it.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    return 0.0


class Rates:
    """Computes the speed of a step and the utilization of the devices from its tokens."""

    def __init__(
        self, flops: FlopModel, devices: int, peak: float | None, *, recomputed: float
    ) -> None:
        """Args:
        peak: FLOP/s that one device can do; None where that is not known.
        recomputed: the share of the layers that run forward twice (gradient checkpointing).
        """
        self._flops = flops
        self._devices = devices
        self._peak = peak * devices if peak else None
        self._recomputed = recomputed

    def of(self, step: StepRecord, step_s: float) -> StepRates:
        """The speed and utilization of one step."""
        speed = sum(step.lengths) / step_s
        needed = self._flops.step(step.lengths, step.trained_tokens)
        again = self._flops.recomputed(step.lengths, step.trained_tokens, share=self._recomputed)
        return StepRates(
            step_s=step_s,
            tokens_per_second=speed,
            tokens_per_second_per_device=speed / self._devices,
            mfu=needed / step_s / self._peak if self._peak else None,
            hfu=(needed + again) / step_s / self._peak if self._peak else None,
            peak_memory_gib=step.peak_memory_gib,
            data_wait_share=step.wait_s / step_s,
            slowest_host=step.slowest.host if step.slowest else UNSET,
            slowest_host_share=step.slowest.share if step.slowest else UNSET,
        )


class TimeLeft:
    """Estimates how long training still takes, from the tokens that are left.

    Steps have very different numbers of tokens, so their mean duration says little at first.
    """

    def __init__(self, total_tokens: float, evaluations: int) -> None:
        """Args:
        total_tokens: of all steps of the run.
        evaluations: of the held-out rows, from now to the end.
        """
        self._total = total_tokens
        self._evaluations = evaluations
        self._evaluation_s = 0.0
        self._tokens = 0
        self._seconds = 0.0
        self._first = True

    def evaluated(self, seconds: float) -> None:
        """Count an evaluation of the held-out rows."""
        self._evaluations -= 1
        self._evaluation_s = seconds

    def after_step(self, tokens: int, seconds: float, done: int) -> float | None:
        """The seconds that are left after a step; None after the first one, which warms up.

        Args:
            tokens: of this step, which took `seconds`.
            done: tokens of all steps so far, of earlier attempts too.
        """
        if self._first:
            self._first = False
            return None
        self._tokens += tokens
        self._seconds += seconds
        training = max(0.0, self._total - done) * self._seconds / self._tokens
        return training + max(0, self._evaluations) * self._evaluation_s


def forecast(
    spec: JobSpec, config: Any, schedule: Schedule, base_gib: float, recomputed_layers: int
) -> Memory | None:
    """What `jobspec validate` would say of this run's memory, its longest micro-batch known.

    Args:
        config: the model's, of Transformers.
        base_gib: this rank's peak before the model was there; on a GPU nothing is allocated then.

    Returns:
        None for families that `jobspec.models.decoder_shape` does not know.
    """
    found = decoder_shape.of(config.get_text_config().to_dict())
    if found is None or spec.train is None:
        return None
    micros = (micro for step in schedule.steps(0) for micro in step.micros)
    longest = max(schedule.tokens_of(micro) for micro in micros)
    on_gpu = torch.cuda.is_available()
    setting = memory.Setting(
        train=spec.train,
        dtype=spec.model.dtype,
        devices=schedule.world * schedule.shard.count,
        tokens=-(-longest // schedule.shard.count),
        on_gpu=on_gpu,
        base_gib=base_gib + (0.0 if on_gpu else _RUNTIME_GIB),
        recomputed_layers=recomputed_layers,
    )
    return memory.predict(found, setting)


def memory_use(predicted: Memory | None, measured_gib: float | None) -> MemoryUse | None:
    """The prediction next to the measurement, for the phase's report."""
    if predicted is None or measured_gib is None:
        return None
    return MemoryUse(
        predicted_gib=predicted.total,
        measured_gib=measured_gib,
        ratio=predicted.total / measured_gib,
        parts=msgspec.structs.asdict(predicted),
    )
