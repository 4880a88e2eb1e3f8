"""TRL's SFTTrainer, with this project's row order, loss normalization, stops and records.

A training step is one global batch. The loader gives each rank its micro-batches of it in one
piece; `training_step` runs them and marks DeepSpeed's accumulation boundary on the last, so that
steps may have different numbers of micro-batches (packing) and the Trainer's own accumulation is 1.
The loss is the sum over trained tokens divided by the trained tokens of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from jobspec.errors import SpecError
from worker.kernels import varlen_attention
from worker.training import loss
from worker.training.dataset import EpochSampler, Schedule, StepDataset, loader, moved
from worker.training.errors import StoppedError
from worker.training.throughput import Meter, peak_memory_gib


@dataclass
class StepRecord:
    """What one step came to, over all ranks. `lengths` are its rows' tokens.

    `wait_s`: what the slowest rank waited for its rows; `peak_memory_gib`: the greatest of any.
    """

    step: int
    loss: float
    lengths: tuple[int, ...]
    trained_tokens: int
    stop: bool
    save: bool
    wait_s: float = 0.0
    peak_memory_gib: float = 0.0


@dataclass
class Tally:
    """This rank's part of the current step, reduced over ranks at its end."""

    loss: torch.Tensor | None = None
    lengths: tuple[int, ...] = ()
    trained_tokens: int = 0


class RowTrainer(SFTTrainer):
    """SFTTrainer over a Schedule. Rows are prepared; nothing is tokenized or masked here."""

    # Their declared types are unions over every backend there is.
    model: Any
    model_wrapped: Any
    optimizer: Any

    def __init__(self, *, schedule: Schedule, evaluation: Schedule | None, **kwargs: Any) -> None:
        self.schedule = schedule
        self.evaluation = evaluation
        self.tally = Tally()
        self.meter = Meter()
        self.stop: StopFlag | None = None
        self._merged = False
        self.grad_norm: float | None = None
        self.learning_rate: float | None = None
        super().__init__(train_dataset=schedule.rows.data, **kwargs)
        base = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        del base.forward  # TRL's, which computes entropy and accuracy that nobody reads
        self._score = loss.of(base)

    def get_train_dataloader(self) -> DataLoader:
        return loader(self._dataset(self.schedule), EpochSampler(self.schedule))

    def _dataset(self, schedule: Schedule) -> StepDataset:
        # Padded only for models that do not take the attention that keeps unpadded rows apart.
        padded = self.model.config._attn_implementation != varlen_attention.NAME
        if padded and schedule.shard.count > 1:
            raise SpecError(
                f"`{self.model.config.model_type}` does not take the attention that can be shared",
                place="$.train.sequence_parallel",
                hint="set it to 1",
            )
        return StepDataset(schedule.rows, self._pad_token_id, padded=padded, shard=schedule.shard)

    @property
    def _pad_token_id(self) -> int:
        token: Any = self._tokenizer.pad_token_id
        return token

    def num_examples(self, dataloader: DataLoader) -> int:
        return len(self.schedule.rows)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """The loader knows the global batch's trained tokens: no collective is needed to count."""
        with self.meter.fetching():
            inputs = next(epoch_iterator)
        return [inputs], inputs["trained_tokens"]

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of this rank's micro-batches. Returns this rank's summed loss."""
        model.train()
        self.tally = Tally(None, inputs["lengths"], inputs["trained_tokens"])
        micros = inputs["micros"]
        total = torch.zeros((), device=self.args.device)
        state = self.accelerator.gradient_state
        for number, raw in enumerate(micros, start=1):
            state._set_sync_gradients(number == len(micros))
            micro = moved(raw, self.args.device)
            with self.compute_loss_context_manager():
                loss = self.summed_loss(model, micro) / max(num_items_in_batch or 0, 1)
            total += loss.detach()
            # Ranks' gradients are averaged; the loss is already a share of the global batch's.
            self.accelerator.backward(loss * self.args.world_size, scale_wrt_gas=False)
        self.tally.loss = total
        return total

    def summed_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Cross-entropy summed over the trained tokens of one micro-batch; logits never whole."""
        return self._score(model, inputs)

    @torch.no_grad()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Token-weighted loss over the held-out rows, the same on any number of ranks.

        Raises:
            StoppedError: a rank was asked to stop; the loss is measured after the resume.
        """
        if self.evaluation is None:
            return {}
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        dataset = self._dataset(self.evaluation)
        summed = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for step in self.evaluation.in_order():
            if self.stop is not None:
                self.stop.check(self.args.device)
            batch = dataset[step]
            for raw in batch["micros"]:
                micro = moved(raw, self.args.device)
                with self.compute_loss_context_manager():
                    summed[0] += self.summed_loss(model, micro).double()
                summed[1] += len(micro["targets"])
        dist.all_reduce(summed)
        model.train(was_training)
        metrics = {"eval_loss": (summed[0] / summed[1]).item()}
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

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
        """Put the adapter into the weights it adapts, for good: training is over."""
        self.model = self.model.merge_and_unload()
        self._merged = True

    def save_weights(self, path: Path) -> None:
        """A model directory that others can load. All ranks call it."""
        if self._merged:
            if self.args.should_save:
                self._save(str(path))
        else:
            self.save_model(str(path), _internal_call=True)
        if self.args.should_save:
            (path / "training_args.bin").unlink(missing_ok=True)
        dist.barrier()


class StopFlag:
    """Set by SIGUSR2 or SIGTERM on any rank; all ranks read the same answer at a step's end."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, signum: int, frame: Any) -> None:
        self.asked = True

    def check(self, device: torch.device) -> None:
        """Raise StoppedError on all ranks if any was asked to stop. All ranks call it."""
        asked = torch.tensor([float(self.asked)], device=device)
        dist.all_reduce(asked)
        if asked.item() > 0:
            raise StoppedError


class Reports(TrainerCallback):
    """Reduces each step over the ranks and hands it to `sink` with the seconds it took.

    One all-reduce a step carries the loss, what each rank waited and holds, and two flags, so that
    all ranks agree on the step they stop at and on the steps after which they save.
    """

    def __init__(
        self,
        trainer: RowTrainer,
        stop: StopFlag,
        sink: Callable[[StepRecord, float], None],
        wants_save: Callable[[], bool],
    ) -> None:
        self._trainer = trainer
        self._stop = stop
        self._sink = sink
        self._wants_save = wants_save

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        tally = self._trainer.tally
        assert tally.loss is not None
        save = dist.get_rank() == 0 and self._wants_save()
        meter, rank, world = self._trainer.meter, dist.get_rank(), dist.get_world_size()
        own = torch.tensor([float(self._stop.asked), float(save), meter.wait_s, peak_memory_gib()])
        vector = torch.zeros(1 + 4 * world, dtype=torch.float64, device=args.device)
        vector[0] = tally.loss.double()
        vector[1 + 4 * rank : 5 + 4 * rank] = own
        dist.all_reduce(vector)
        loss, *each = vector.tolist()
        stops, saves, waits, peaks = (each[start::4] for start in range(4))
        if any(stops):
            control.should_training_stop = True
        record = StepRecord(
            step=state.global_step,
            loss=loss,
            lengths=tally.lengths,
            trained_tokens=tally.trained_tokens,
            stop=any(stops),
            save=any(saves),
            wait_s=max(waits),
            peak_memory_gib=max(peaks),
        )
        self._sink(record, meter.step_s)
        return control
