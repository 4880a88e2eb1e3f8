"""Trainer callbacks: one reports each step, the other calls back at the start and per epoch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from worker.training.flops import FlopModel
from worker.training.records import StepRecord
from worker.training.stop_flag import StopFlag
from worker.training.throughput import (
    CpuEvent,
    ForwardClock,
    compared_hosts,
    peak_memory_gib,
    slowest_node,
)
from worker.training.trainer import RowTrainer


class StepReporter(TrainerCallback):
    """Reduces each step over the ranks and passes it to `report` with the seconds it took.

    A single all-reduce per step carries the loss, each rank's waiting time, peak memory and forward
    passes, and two flags, so that all ranks stop after the same step and save after the same steps.
    """

    def __init__(
        self,
        trainer: RowTrainer,
        stop: StopFlag,
        report: Callable[[StepRecord, float], None],
        wants_save: Callable[[], bool],
    ) -> None:
        self._trainer = trainer
        self._stop = stop
        self._report = report
        self._wants_save = wants_save
        self._hosts = compared_hosts(trainer.schedule.shard.count)
        if self._hosts:
            on_gpu = trainer.args.device.type == "cuda"
            event = functools.partial(torch.cuda.Event, enable_timing=True) if on_gpu else CpuEvent
            trainer.forward_clock = ForwardClock(FlopModel.of(trainer.model), event)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        totals = self._trainer.totals
        assert totals.loss is not None
        clock, rank, world = self._trainer.clock, dist.get_rank(), dist.get_world_size()
        save = rank == 0 and self._wants_save()
        timed = self._trainer.forward_clock
        passes = (0.0, 0.0) if timed is None else timed.end_step()
        own = [float(self._stop.requested), float(save), clock.wait_s, peak_memory_gib(), *passes]
        size = len(own)
        vector = torch.zeros(1 + size * world, dtype=torch.float64, device=args.device)
        vector[0] = totals.loss.double()
        vector[1 + size * rank :][:size] = torch.tensor(own, dtype=torch.float64)
        dist.all_reduce(vector)
        loss, *each = vector.tolist()
        stops, saves, waits, peaks, seconds, work = (each[n::size] for n in range(size))
        if any(stops):
            control.should_training_stop = True
        record = StepRecord(
            step=state.global_step,
            loss=loss,
            lengths=totals.lengths,
            trained_tokens=totals.trained_tokens,
            stop=any(stops),
            save=any(saves),
            wait_s=max(waits),
            peak_memory_gib=max(peaks),
            sources=totals.sources,
            slowest=slowest_node(self._hosts, seconds, work),
        )
        self._report(record, clock.step_s)
        return control


class Milestones(TrainerCallback):
    """Calls `on_begin` before the first step and `on_epoch` after each epoch."""

    def __init__(self, on_begin: Callable[[], None], on_epoch: Callable[[], None]) -> None:
        self._on_begin = on_begin
        self._on_epoch = on_epoch

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._on_begin()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self._on_epoch()
