"""One attempt's training on one rank: load, train, save.

The run checks and records which engine trains: it is an error if it is not DeepSpeed's, at the ZeRO
stage of the spec.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import deepspeed
import msgspec
import torch
import torch.distributed as dist

from jobspec.errors import JobspecError
from jobspec.models import devices
from jobspec.records import base as records
from jobspec.records import exit_codes, phases
from jobspec.records.checkpoint import TrainingProgress
from jobspec.records.manifest import MicroBatchPlan
from jobspec.records.metric_rows import EvalLossRow, ResumeRow, StepRow
from jobspec.records.reports import TrainingEngine, TrainReport
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs
from jobspec.storage.layout import PreparedPaths, SplitPaths, partial_of
from worker.checkpoints import directories
from worker.checkpoints.distributed import DistributedCheckpoints
from worker.checkpoints.progress import restore_progress
from worker.kernels import optimizers, varlen_attention
from worker.launch.manifest import read_plan
from worker.packing import model_parts
from worker.packing.collate import Shard
from worker.phase import Phase
from worker.training import lora, micro_batches, zero_two
from worker.training.callbacks import Milestones, StepReporter
from worker.training.dataset import Rows, Schedule
from worker.training.deepspeed_config import deepspeed_config
from worker.training.errors import NonFiniteHeldOutLossError, NonFiniteLossError, StoppedError
from worker.training.flops import FlopModel
from worker.training.loading import choose_kernels, load_model, load_tokenizer
from worker.training.records import StepRecord
from worker.training.stop_flag import StopFlag
from worker.training.throughput import Rates, TimeLeft, forecast, memory_use, peak_memory_gib
from worker.training.trainer import RowTrainer
from worker.training.trainer_arguments import trainer_arguments


class TrainingRun:
    """One attempt's training on one rank."""

    def __init__(self, phase: Phase, stop: StopFlag) -> None:
        self.phase = phase
        self.stop = stop
        self.spec: JobSpec = phase.spec
        assert self.spec.train is not None
        self.train = self.spec.train
        self.on_gpu = torch.cuda.is_available()
        self.base_gib = peak_memory_gib()
        self.world = dist.get_world_size()
        self.rank = dist.get_rank()
        self.prepared = phase.read_report(phases.PREPARE)
        planned = read_plan(phase.paths.manifest, self.world)
        self.least_memory = planned is not None and planned.least_memory
        rows = planned.per_device_train_batch_size if planned is not None else None
        self.micro_batch_size = rows or self.train.per_device_train_batch_size
        self.deepspeed_config = deepspeed_config(
            self.spec, self.micro_batch_size, on_gpu=self.on_gpu
        )
        self.progress = TrainingProgress()
        self.checkpoints = DistributedCheckpoints(phase, self.train)
        self.resumed = self.checkpoints.newest()

    def run(self) -> int:
        """Load, train, save. Returns the phase's exit code."""
        self.trainer = self._trainer()
        directory = None
        if self.resumed is not None:
            checkpoint, manifest = self.resumed
            self.progress = restore_progress(checkpoint, manifest, self.world)
            directory = str(checkpoint.dir)
        self.time_left = self._time_left()
        try:
            self.trainer.train(resume_from_checkpoint=directory)
            stopped = self.trainer.state.global_step < self.trainer.state.max_steps
        except StoppedError:
            stopped = True
        if stopped:
            self.save_checkpoint()
            return exit_codes.STOPPED
        self._finish()
        return 0

    def _trainer(self) -> RowTrainer:
        model_spec, prepared = self.spec.model, self.prepared
        tokenizer = load_tokenizer(model_spec, prepared.inference_chat_template)
        rows = PreparedPaths(self.phase.root.root / prepared.dir)
        evaluation = self._schedule(rows.eval) if prepared.rows_eval else None
        schedule = self._schedule(rows.train)
        self.micro_batches = self._choose_micro_batches(schedule, evaluation)
        # Before the model is loaded: with ZeRO-3 the arguments make loading shard the weights.
        arguments = trainer_arguments(
            self.spec,
            output_dir=self.phase.paths.checkpoints,
            deepspeed=self._engine_settings(),
            micro_batch_size=self.micro_batch_size,
            steps_per_epoch=schedule.steps_per_epoch,
            recomputed_layers=self.micro_batches.recomputed_layers,
            on_gpu=self.on_gpu,
        )
        model = load_model(self.spec, prepared.eos_token_ids)
        begun = time.monotonic()
        self.kernels = choose_kernels(model, self.spec, arguments.device, on_gpu=self.on_gpu)
        self.check = self.kernels.check
        self.check_s = time.monotonic() - begun
        for split in (schedule, evaluation):
            if split is not None:
                split.padded = self.check.layout.padded
                split.multiple = self.check.layout.multiple
        try:
            trainer = RowTrainer(
                model=model,
                args=arguments,
                processing_class=tokenizer,
                schedule=schedule,
                evaluation=evaluation,
                layout=self.check.layout,
                peft_config=lora.config(self.train.lora),
                optimizer_cls_and_kwargs=optimizers.custom(self.train),
            )
        except ValueError as error:
            raise lora.explained(error, self.train.lora) from error
        trainer.stop = self.stop
        # After adapters were added, also to these parts, and before there is an optimizer.
        model_parts.freeze(model, self.check.unused)
        self.weights = model_parts.count_weights(trainer.model)
        manifest = None if self.resumed is None else self.resumed[1]
        trainer.group_elements = zero_two.group_elements(self.train, self.weights.trained, manifest)
        self._log_check()
        self.rates = Rates(
            FlopModel.of(trainer.model),
            self.world,
            devices.peak(torch.cuda.get_device_name()) if self.on_gpu else None,
            recomputed=self.micro_batches.recomputed_layers / self.micro_batches.layers,
        )
        trainer.add_callback(Milestones(self.on_train_begin, self.on_epoch_end))
        trainer.add_callback(StepReporter(trainer, self.stop, self.on_step, self.wants_save))
        return trainer

    def _time_left(self) -> TimeLeft:
        epochs, trainer = self.train.num_train_epochs, self.trainer
        evaluations = math.ceil(epochs) + (self.resumed is None) - self.progress.ended_epochs
        total = epochs * sum(trainer.schedule.rows.lengths)
        return TimeLeft(total, evaluations if trainer.evaluation is not None else 0)

    def _log_check(self) -> None:
        """Say how rows are laid out and what is trained; once."""
        if self.rank:
            return
        layout, weights = self.check.layout, self.weights
        reason = f" ({layout.reason})" if layout.reason else ""
        lines = [f"rows are {layout}, checked in {self.check_s:.1f} s{reason}"]
        lines.append(f"micro-batches have {self._micro_batch_limit()}")
        plan = self.micro_batches
        lines.append(f"recomputes {plan.recomputed_layers} of {plan.layers} layers")
        lines.append(f"trains {weights.trained:,} of {weights.total:,} weights")
        lines += self.kernels.notes()
        if self.check.unused:
            lines.append(f"not trained, because text does not use it: {self.check.unused}")
        sys.stderr.writelines(f"train: {line}\n" for line in lines)

    def _micro_batch_limit(self) -> str:
        most = self.micro_batches.tokens
        if most is None:
            return (
                "one row" if self.micro_batch_size == 1 else f"up to {self.micro_batch_size} rows"
            )
        padding = ", padding included" if self.check.layout.padded else ""
        return f"up to {most:,} tokens{padding}"

    def _choose_micro_batches(self, *splits: Schedule | None) -> MicroBatchPlan:
        """Choose the micro-batches of this attempt, and record them. All ranks call it."""
        schedules = [split for split in splits if split is not None]
        longest = max(length for split in schedules for length in split.rows.lengths)
        plan = micro_batches.choose(self.spec, longest=longest, least_memory=self.least_memory)
        for split in schedules:
            split.max_tokens = plan.tokens
        if self.rank == 0:
            fs.publish(self.phase.paths.micro_batches, records.encode(plan))
        return plan

    def _schedule(self, split: SplitPaths) -> Schedule:
        degree = self.train.sequence_parallel
        names = tuple(source.name for source in self.prepared.sources)
        return Schedule(
            Rows.open(split, names),
            seed=self.train.seed,
            batch_size=self.train.global_batch_size,
            micro_batch_size=self.micro_batch_size,
            rank=self.rank // degree,
            world=self.world // degree,
            shard=Shard(self.rank % degree, degree),
        )

    def _engine_settings(self) -> dict[str, Any]:
        """DeepSpeed's configuration, and whether it resumes from a converted checkpoint."""
        universal = self.resumed is not None and self.resumed[1].converted is not None
        return self.deepspeed_config | (
            {"checkpoint": {"load_universal": True}} if universal else {}
        )

    def check_engine(self) -> None:
        """The engine that trains is DeepSpeed's, at the stage the spec asks for."""
        engine = self.trainer.model_wrapped
        if not isinstance(engine, deepspeed.DeepSpeedEngine):
            raise JobspecError(
                f"a `{type(engine).__name__}` would train, not a DeepSpeedEngine",
                hint="check the versions of accelerate and deepspeed against constraints.txt",
            )
        if engine.zero_optimization_stage() != self.train.zero_stage:
            raise JobspecError(
                f"ZeRO-{engine.zero_optimization_stage()} would train, the spec asks for "
                f"ZeRO-{self.train.zero_stage}"
            )
        # DeepSpeed reads this to decide whether an offloaded gradient is added to or replaced. Its
        # configuration has one accumulation step, but a step here may have several micro-batches.
        optimizer: Any = engine.optimizer
        if hasattr(optimizer, "gradient_accumulation_steps"):
            optimizer.gradient_accumulation_steps = 2
        zero_two.save_memory(optimizer)

    def engine(self) -> TrainingEngine:
        """The engine that trained, for the report and the manifest."""
        engine = self.trainer.model_wrapped
        return TrainingEngine(
            name=type(engine).__name__,
            zero_stage=engine.zero_optimization_stage(),
            world_size=self.world,
            device=torch.cuda.get_device_name() if self.on_gpu else "cpu",
            optimizer=optimizers.describe(self.trainer.optimizer.optimizer),
            dtype=self.spec.model.dtype,
            kernels=self.kernels.liger,
            attn_implementation=self.trainer.model.config._attn_implementation,
            attention=varlen_attention.ran(),
            rows=self.check.layout.rows,
            rows_reason=self.check.layout.reason,
            weights=self.weights.total,
            trained_weights=self.weights.trained,
            unused=self.check.unused,
            micro_batch_tokens=self.micro_batches.tokens,
            recomputed_layers=self.micro_batches.recomputed_layers,
            compiled=self.kernels.compiled,
            compiled_reason=self.kernels.not_compiled,
            float8=self.kernels.float8,
            deepspeed_config=self.deepspeed_config,
        )

    def on_train_begin(self) -> None:
        """Before the first step: say where this attempt begins, and measure the untrained loss."""
        self.check_engine()
        if self.micro_batches.recomputed_layers:
            micro_batches.recompute_first(self.trainer.model, self.micro_batches.recomputed_layers)
        if self.rank == 0:
            self.trainer.try_saving(partial_of(self.phase.paths.final_model))
        self.stop.check(self.trainer.args.device)
        state, progress = self.trainer.state, self.progress
        if self.resumed is not None:
            optimizer, seed = self.trainer.optimizer, self.train.seed
            self.checkpoints.finish_loading(*self.resumed, optimizer, seed)
            assert progress.resumed_from is not None
            self.phase.metric(ResumeRow(resumed_from=progress.resumed_from, step=state.global_step))
            ended, into = divmod(state.global_step, self.trainer.schedule.steps_per_epoch)
            if not into and progress.ended_epochs < ended:
                self.on_epoch_end()  # its steps were done, its loss and weights were not
        else:
            self.checkpoints.measure_write_speed(self.trainer.model)
            progress.eval_loss_first = self.evaluate()
            self.stop.check(self.trainer.args.device)
        self.checkpoints.saved_at = time.monotonic()

    def evaluate(self) -> float | None:
        """The held-out loss now; None without held-out rows. All ranks call it."""
        begun = time.monotonic()
        by_source = self.trainer.evaluate()
        loss = by_source.pop("eval_loss", None)
        if loss is not None:
            self.time_left.evaluated(time.monotonic() - begun)
            state = self.trainer.state
            if not math.isfinite(loss):
                raise NonFiniteHeldOutLossError(loss, state.global_step)
            for name, value in by_source.items():
                self.progress.add_eval_loss(name.removeprefix("eval_loss/"), value)
            epoch = state.epoch or 0.0
            self.phase.metric(
                EvalLossRow(step=state.global_step, epoch=epoch, eval_loss=loss, metrics=by_source)
            )
        return loss

    def on_step(self, step: StepRecord, step_s: float) -> None:
        """After each step: record it, and save where it is time. All ranks call it."""
        if not math.isfinite(step.loss):
            raise NonFiniteLossError(step.loss, step.step)
        norm = self.trainer.grad_norm
        if norm is not None and not math.isfinite(norm):
            raise NonFiniteLossError(norm, step.step, "the gradient's norm")
        progress, trainer = self.progress, self.trainer
        progress.loss = step.loss
        if progress.loss_first is None and step.step == 1:
            progress.loss_first = step.loss
        progress.tokens += sum(step.lengths)
        progress.trained_tokens += step.trained_tokens
        names = trainer.schedule.rows.names
        for name, counts in zip(names, step.sources, strict=True):
            progress.add_tokens(name, counts)
        progress.train_s += step_s
        progress.peak_memory_gib = max(progress.peak_memory_gib or 0.0, step.peak_memory_gib)
        rates = self.rates.of(step, step_s)
        row = StepRow(
            step=step.step,
            epoch=trainer.state.epoch,
            loss=step.loss,
            learning_rate=trainer.learning_rate,
            grad_norm=trainer.grad_norm,
            num_tokens=progress.tokens,
            trained_tokens=progress.trained_tokens,
            metrics={
                f"trained_tokens/{name}": progress.sources[name].trained_tokens for name in names
            },
            **msgspec.structs.asdict(rates),
        )
        self.phase.metric(row)
        self.phase.progress(
            step.step,
            trainer.state.max_steps,
            "steps",
            eta_s=self.time_left.after_step(sum(step.lengths), step_s, progress.tokens),
            loss=step.loss,
            eval_loss=progress.eval_loss,
            tokens_per_second=rates.tokens_per_second,
        )
        if step.save and step.step < trainer.state.max_steps:
            self.save_checkpoint()

    def wants_save(self) -> bool:
        """Whether this rank's clock says that a checkpoint is due."""
        return time.monotonic() - self.checkpoints.saved_at >= self.train.checkpoint_interval_s

    def on_epoch_end(self) -> None:
        """Held-out loss and weights of an epoch. All ranks call it."""
        state = self.trainer.state
        if self.stop_agreed:
            return
        if state.global_step >= state.max_steps:
            self.trainer.stop = None  # what is left is done sooner than a resume could begin
        self.progress.eval_loss = self.evaluate()
        epoch = round(state.epoch or 0)
        if state.global_step < state.max_steps:
            self.save_weights(self.phase.paths.epoch(epoch))
            self.progress.ended_epochs += 1
            self.stop.check(self.trainer.args.device)

    @property
    def stop_agreed(self) -> bool:
        """Whether the ranks have agreed to stop before the end."""
        state, control = self.trainer.state, self.trainer.control
        return control.should_training_stop and state.global_step < state.max_steps

    def save_weights(self, path: Path) -> None:
        """Save a model directory, which gets its final name only when it is complete."""
        partial = partial_of(path)
        self.trainer.save_weights(partial)
        if self.rank == 0:
            directories.publish_directory(partial, path)
            directories.prune_epoch_weights(self.phase.paths, self.train.save_total_limit)
        dist.barrier()

    def save_checkpoint(self) -> None:
        """Save a complete checkpoint of this step and delete older ones. All ranks call it."""
        step = self.trainer.state.global_step
        if step:
            write, elements = self.trainer.save_checkpoint, self.trainer.group_elements
            self.checkpoints.save(step, write, self.progress, group_elements=elements)

    def _finish(self) -> None:
        if self.train.lora is not None:
            self.save_weights(self.phase.paths.adapter)
            self.trainer.merge_adapter()
        self.save_weights(self.phase.paths.final_model)
        state, progress = self.trainer.state, self.progress
        predicted = forecast(
            self.spec,
            self.trainer.model.config,
            self.trainer.schedule,
            self.base_gib,
            self.micro_batches.recomputed_layers,
        )
        if self.rank == 0:
            self.phase.progress(state.max_steps, state.max_steps, "steps", loss=progress.loss)
            report = TrainReport(
                model_dir=self.phase.paths.final_model.name,
                steps=state.global_step,
                epochs=state.epoch,
                engine=self.engine(),
                memory=memory_use(predicted, progress.peak_memory_gib),
                tokens_per_second=progress.tokens_per_second,
                **msgspec.structs.asdict(progress),
            )
            self.phase.finish(report)
        dist.barrier()
