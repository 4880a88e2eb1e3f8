"""Trainer callbacks: one reports each step, the other calls back at the start and per epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from worker.training.records import StepRecord
from worker.training.stop_flag import StopFlag
from worker.training.throughput import peak_memory_gib
from worker.training.trainer import RowTrainer


class StepReporter(TrainerCallback):
    """Reduces each step over the ranks and passes it to `report` with the seconds it took.

    A single all-reduce per step carries the loss, each rank's waiting time and peak memory, and two
    flags, so that all ranks stop after the same step and save after the same steps.
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

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        totals = self._trainer.totals
        assert totals.loss is not None
        clock, rank, world = self._trainer.clock, dist.get_rank(), dist.get_world_size()
        save = rank == 0 and self._wants_save()
        own = [float(self._stop.requested), float(save), clock.wait_s, peak_memory_gib()]
        vector = torch.zeros(1 + 4 * world, dtype=torch.float64, device=args.device)
        vector[0] = totals.loss.double()
        vector[1 + 4 * rank : 5 + 4 * rank] = torch.tensor(own)
        dist.all_reduce(vector)
        loss, *each = vector.tolist()
        stops, saves, waits, peaks = (each[start::4] for start in range(4))
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
