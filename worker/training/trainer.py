"""TRL's SFTTrainer, with this project's row order, loss normalization, stops and records.

A training step is one global batch. The loader gives each rank all its micro-batches at once.
`training_step` runs them and marks DeepSpeed's accumulation boundary at the last one. So steps may
have different numbers of micro-batches (packing), and the Trainer's own accumulation is 1.
The loss is the sum over trained tokens divided by the trained tokens of the global batch.
"""

from __future__ import annotations

import contextlib
import shutil
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from trl.trainer.sft_trainer import SFTTrainer

from jobspec.errors import ModelError
from jobspec.records.mixture import TokenCounts
from worker.packing.collate import to_device
from worker.packing.row_layout import RowLayout
from worker.training import loss, zero_two
from worker.training.dataset import EpochSampler, Schedule, StepDataset, loader
from worker.training.stop_flag import StopFlag
from worker.training.throughput import ForwardClock, StepClock


@dataclass
class StepTotals:
    """This rank's part of the current step; `StepReporter` reduces it over the ranks."""

    loss: torch.Tensor | None = None
    lengths: tuple[int, ...] = ()
    trained_tokens: int = 0
    sources: tuple[TokenCounts, ...] = ()


class RowTrainer(SFTTrainer):
    """SFTTrainer over a Schedule. Rows are prepared; nothing is tokenized or masked here."""

    # Their declared types are unions over all backends.
    model: Any
    model_wrapped: Any
    optimizer: Any

    def __init__(
        self,
        *,
        schedule: Schedule,
        evaluation: Schedule | None,
        layout: RowLayout,
        **kwargs: Any,
    ) -> None:
        self.layout = layout
        self.schedule = schedule
        self.evaluation = evaluation
        self.totals = StepTotals()
        self.clock = StepClock()
        self.forward_clock: ForwardClock | None = None  # None: forward passes are not timed
        self.stop: StopFlag | None = None
        self.group_elements: int | None = None  # None: the optimizer's groups are not split
        self._merged = False
        self.grad_norm: float | None = None
        self.learning_rate: float | None = None
        super().__init__(train_dataset=schedule.rows.data, **kwargs)
        base = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        del base.forward  # TRL's computes entropy and accuracy, which are not used
        self._score = loss.of(base)

    def get_train_dataloader(self) -> DataLoader:
        return loader(self._dataset(self.schedule), EpochSampler(self.schedule))

    def _dataset(self, schedule: Schedule) -> StepDataset:
        return StepDataset(
            schedule.rows, self._pad_token_id, layout=self.layout, shard=schedule.shard
        )

    @property
    def _pad_token_id(self) -> int:
        token: Any = self._tokenizer.pad_token_id
        return token

    def num_examples(self, dataloader: DataLoader) -> int:
        return len(self.schedule.rows)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """The loader counts the trained tokens of the global batch, so no collective is needed."""
        with self.clock.fetching():
            inputs = next(epoch_iterator)
        return [inputs], inputs["trained_tokens"]

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of this rank's micro-batches. Returns this rank's summed loss."""
        model.train()
        self.totals = StepTotals(
            None, inputs["lengths"], inputs["trained_tokens"], inputs["sources"]
        )
        micros = inputs["micros"]
        total = torch.zeros((), device=self.args.device)
        state = self.accelerator.gradient_state
        for number, raw in enumerate(micros, start=1):
            state._set_sync_gradients(number == len(micros))
            micro = to_device(raw, self.args.device)
            with self._timing(micro), self.compute_loss_context_manager():
                loss = self.summed_loss(model, micro) / max(num_items_in_batch or 0, 1)
            total += loss.detach()
            # DeepSpeed averages gradients over ranks, but the loss is divided by the global count.
            self.accelerator.backward(loss * self.args.world_size, scale_wrt_gas=False)
        self.totals.loss = total
        return total

    def _timing(self, micro: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        clock = self.forward_clock
        return contextlib.nullcontext() if clock is None else clock.timing(micro)

    def summed_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Cross-entropy summed over the trained tokens of one micro-batch."""
        return self._score(model, inputs)

    @torch.no_grad()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Token-weighted loss over the held-out rows, the same on any number of ranks.

        In a mixture also that of each source, as `eval_loss/<source>`.

        Raises:
            StoppedError: a rank was asked to stop; the loss is computed after the resume.
        """
        if self.evaluation is None:
            return {}
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        dataset = self._dataset(self.evaluation)
        names = self.evaluation.rows.names
        shape = (max(1, len(names)), 2)  # the loss and the trained tokens of each source
        summed = torch.zeros(shape, dtype=torch.float64, device=self.args.device)
        for source, step in self.evaluation.in_order():
            if self.stop is not None:
                self.stop.check(self.args.device)
            batch = dataset[step]
            for raw in batch["micros"]:
                micro = to_device(raw, self.args.device)
                with self.compute_loss_context_manager():
                    summed[source, 0] += self.summed_loss(model, micro).double()
                summed[source, 1] += len(micro["targets"])
        dist.all_reduce(summed)
        model.train(was_training)
        total = summed.sum(dim=0)
        metrics = {"eval_loss": (total[0] / total[1]).item()}
        parts: list[Any] = summed.tolist() if names else []
        for name, (part, tokens) in zip(names, parts, strict=True):
            if tokens:
                metrics[f"eval_loss/{name}"] = part / tokens
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def create_optimizer(self, model: Any = None) -> Any:
        optimizer: Any = super().create_optimizer(model)
        if self.group_elements is not None:
            groups = zero_two.split_groups(optimizer.param_groups, self.group_elements)
            optimizer.param_groups = groups
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        scheduler: Any = super().create_scheduler(num_training_steps, optimizer)
        warm_up_from_first_step(scheduler, self.args.get_warmup_steps(num_training_steps))
        return scheduler

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Does nothing: `DistributedCheckpoints` decides when to save and what to keep."""

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.grad_norm = None if norm is None else float(norm)
        return norm

    def _get_learning_rate(self) -> float:
        rate = super()._get_learning_rate()
        self.learning_rate = rate
        return rate

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Metric rows are written by the phase's callback."""

    def save_checkpoint(self, path: Path) -> None:
        """Save all state that another process needs to continue from here. All ranks call it."""
        path.mkdir(parents=True, exist_ok=True)
        dist.barrier()
        self._save_optimizer_and_scheduler(str(path))
        self._save_rng_state(str(path))
        if self.args.should_save:
            self.state.save_to_json(str(path / "trainer_state.json"))
        dist.barrier()

    def merge_adapter(self) -> None:
        """Merge the adapter into the weights, after training."""
        self.model = self.model.merge_and_unload()
        self._merged = True

    def try_saving(self, path: Path) -> None:
        """Save everything except weights to `path`, a directory that is removed afterwards.

        What cannot be saved is found before the first step instead of after the last one. One rank
        calls it.

        Raises:
            ModelError: a part of the model cannot be saved.
        """
        models = [self.model]
        if hasattr(self.model, "peft_config"):
            models.append(self.model.get_base_model())
        try:
            for number, model in enumerate(models):
                model.save_pretrained(str(path / str(number)), state_dict={})
            self._tokenizer.save_pretrained(str(path / "tokenizer"))
        except Exception as error:
            raise ModelError(
                f"the trained model could not be saved: {textwrap.shorten(str(error), 300)}",
                hint="mend the model's own files: config.json, generation_config.json, tokenizer",
            ) from error
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def save_weights(self, path: Path) -> None:
        """Save a model directory that other programs can load. All ranks call it."""
        if self._merged:
            if self.args.should_save:
                self._save(str(path))
        else:
            self.save_model(str(path), _internal_call=True)
        if self.args.should_save:
            (path / "training_args.bin").unlink(missing_ok=True)
        dist.barrier()


def warm_up_from_first_step(scheduler: Any, warmup_steps: int) -> None:
    """Let the learning rate of the first step be 1/warmup_steps of the full rate, not 0.

    Transformers' schedules begin at 0, so that the first step would change nothing, and a run of
    one step would train nothing at all. The rates after the warm-up stay as they are.

    Args:
        scheduler: a LambdaLR; one without warm-up is left alone.
    """
    if scheduler.lr_lambdas[0](0) > 0:
        return

    def warmed(rate: Callable[[int], float]) -> Callable[[int], float]:
        return lambda step: (step + 1) / warmup_steps if step < warmup_steps else rate(step)

    scheduler.lr_lambdas = [warmed(rate) for rate in scheduler.lr_lambdas]
    groups = scheduler.optimizer.param_groups
    for group, base, rate in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        group["lr"] = base * rate(0)
    scheduler._last_lr = [group["lr"] for group in groups]
