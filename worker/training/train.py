"""The train phase: `python -m worker.training.train ATTEMPT_DIR`, once a rank, under the sitter.

Reads the rows that prepare made, trains with TRL's SFTTrainer on a DeepSpeed engine, and leaves
`final_model/`, weights an epoch, and `train.json`. Asked to stop, it leaves a resume state and
exits 75. Which engine trained is asserted and recorded: another than the spec asks for is an error.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import JobspecError, ModelError
from jobspec.records import exit_codes
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import partial_of
from worker.checkpoints import directories
from worker.checkpoints.progress import TrainingProgress
from worker.imports import lean
from worker.launch import plan
from worker.launch.manifest import planned_rows
from worker.phase import Phase, run
from worker.training import lora
from worker.training.errors import NonFiniteLossError, StoppedError

os.environ.setdefault("ACCELERATE_USE_DEEPSPEED", "true")

with lean.lean(adapters=lean.wants_adapters(sys.argv)):
    import deepspeed
    import torch
    import torch.distributed as dist
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.trainer.sft_config import SFTConfig

    from worker.checkpoints.distributed import DistributedCheckpoints
    from worker.kernels import liger, varlen_attention
    from worker.training import flops, rendezvous
    from worker.training.dataset import Rows, Schedule, Shard
    from worker.training.throughput import Rates, compared, forecast, peak_memory_gib
    from worker.training.trainer import Reports, RowTrainer, StepRecord, StopFlag

    lean.spare_compiler()


def main() -> None:
    run("train", body)


def body(phase: Phase) -> int:
    """Train one job's model; every rank runs this."""
    stop = StopFlag()
    if not torch.cuda.is_available():
        # DeepSpeed would compile a shared-memory all-reduce at every first start on a host: half a
        # minute, and a compiler, that gloo does not need.
        # Named outright, since asking for the table makes it probe every operator there is.
        deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}  # type: ignore[attr-defined] - made when asked for
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if not rendezvous.join(backend):
        return exit_codes.PORT_IN_USE
    deepspeed.init_distributed(backend, verbose=False)
    job = Training(phase, stop)
    for sig in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(sig, stop)
    return job.run()


class Training:
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
        self.prepared = phase.read_done("prepare")
        self.micro = (
            planned_rows(phase.paths.manifest, self.world) or self.train.per_device_train_batch_size
        )
        self.progress = TrainingProgress()
        self.checkpoints = DistributedCheckpoints(phase, self.train.zero_stage)
        self.resumed = self.checkpoints.newest()

    def run(self) -> int:
        """Load, train, save. Returns the phase's exit code."""
        self.trainer = self._trainer()
        directory = None
        if self.resumed is not None:
            checkpoint, manifest = self.resumed
            self.progress = TrainingProgress.read(checkpoint, manifest, self.world)
            directory = str(checkpoint.dir)
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
        tokenizer = self._tokenizer()
        evaluation = self._schedule("eval") if self.prepared["rows_eval"] else None
        schedule = self._schedule("train")
        args = self._arguments(schedule)  # before the model: ZeRO-3 shards it as it is loaded
        model = self._model()
        try:
            trainer = RowTrainer(
                model=model,
                args=args,
                processing_class=tokenizer,
                schedule=schedule,
                evaluation=evaluation,
                peft_config=lora.config(self.train.lora),
            )
        except ValueError as error:
            raise lora.explained(error, self.train.lora) from error
        trainer.stop = self.stop
        self.rates = Rates(
            flops.Shape.of(trainer.model),
            self.world,
            flops.peak(torch.cuda.get_device_name()) if self.on_gpu else None,
            recomputed=self.train.gradient_checkpointing,
        )
        trainer.add_callback(_Ends(self))
        trainer.add_callback(Reports(trainer, self.stop, self.on_step, self.wants_save))
        return trainer

    def _tokenizer(self) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(
            self.spec.model.name,
            revision=self.spec.model.revision,
            trust_remote_code=self.spec.model.trust_remote_code,
        )
        tokenizer.chat_template = self.prepared["inference_chat_template"]
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def _model(self) -> Any:
        model = self.spec.model
        try:
            loaded = AutoModelForCausalLM.from_pretrained(
                model.name,
                revision=model.revision,
                dtype=getattr(torch, model.dtype),
                attn_implementation=varlen_attention.choose(model.attn_implementation),
                trust_remote_code=model.trust_remote_code,
                use_safetensors=True,
            )
            varlen_attention.settle(loaded, model.attn_implementation)
            if self.train.sequence_parallel > 1:
                varlen_attention.share(loaded.config, self.train.sequence_parallel)
            # What ends a turn in training must end it when the saved model generates.
            loaded.generation_config.eos_token_id = self.prepared["eos_token_ids"]
            self.kernels = liger.apply(loaded, self.train.use_liger_kernel, on_gpu=self.on_gpu)
            return loaded
        except OSError as error:
            raise ModelError(
                f"`{model.name}` can't be loaded: {str(error).splitlines()[0]}",
                hint="safetensors are needed; `jobspec fetch` gets them, on a node with network",
            ) from error

    def _schedule(self, split: str) -> Schedule:
        rows = Rows.open(self.phase.root.root / self.prepared["dir"] / split)
        degree = self.train.sequence_parallel
        return Schedule(
            rows,
            seed=self.train.seed,
            batch_size=self.train.global_batch_size,
            micro=self.micro,
            rank=self.rank // degree,
            world=self.world // degree,
            packing=self.train.packing,
            max_tokens=self.train.max_length,
            shard=Shard(self.rank % degree, degree),
        )

    def _arguments(self, schedule: Schedule) -> SFTConfig:
        train = self.train
        steps = math.ceil(train.num_train_epochs * schedule.steps_per_epoch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return SFTConfig(
                output_dir=str(self.phase.paths.checkpoints),
                deepspeed=self._deepspeed_config(),
                use_cpu=not self.on_gpu,
                bf16=self.spec.model.dtype == "bfloat16",
                fp16=False,
                learning_rate=train.learning_rate,
                num_train_epochs=train.num_train_epochs,
                per_device_train_batch_size=self.micro,
                gradient_accumulation_steps=1,
                lr_scheduler_type=train.lr_scheduler_type,
                warmup_steps=math.ceil(train.warmup_ratio * steps),
                optim=train.optim,
                adam_beta1=train.adam_beta1,
                adam_beta2=train.adam_beta2,
                adam_epsilon=train.adam_epsilon,
                weight_decay=train.weight_decay,
                max_grad_norm=train.max_grad_norm,
                seed=train.seed,
                gradient_checkpointing=train.gradient_checkpointing,
                max_length=None,
                packing=False,
                dataset_kwargs={"skip_prepare_dataset": True},
                remove_unused_columns=False,
                save_strategy="no",
                logging_strategy="no",
                logging_nan_inf_filter=False,
                eval_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )

    def _deepspeed_config(self) -> dict[str, Any]:
        config = plan.deepspeed_config(self.spec, self.micro, on_gpu=self.on_gpu)
        if self.resumed is not None and self.resumed[1].converted is not None:
            config["checkpoint"] = {"load_universal": True}
        return config

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
        # DeepSpeed reads this to decide whether an offloaded gradient is added to or replaced; it
        # is told of one accumulation step, while a step of ours may have several micro-batches.
        optimizer: Any = engine.optimizer
        if hasattr(optimizer, "gradient_accumulation_steps"):
            optimizer.gradient_accumulation_steps = 2

    def engine(self) -> dict[str, Any]:
        """What trained: for the summary and the manifest."""
        engine = self.trainer.model_wrapped
        return {
            "class": type(engine).__name__,
            "zero_stage": engine.zero_optimization_stage(),
            "world_size": self.world,
            "device": torch.cuda.get_device_name() if self.on_gpu else "cpu",
            "optimizer": type(self.trainer.optimizer.optimizer).__name__,
            "dtype": self.spec.model.dtype,
            "kernels": self.kernels,
            "attn_implementation": self.trainer.model.config._attn_implementation,
            "attention": varlen_attention.ran(),
            "deepspeed_config": plan.deepspeed_config(self.spec, self.micro, on_gpu=self.on_gpu),
        }

    def on_train_begin(self) -> None:
        """Before the first step: say where this attempt begins, and measure the untrained loss."""
        self.check_engine()
        self.stop.check(self.trainer.args.device)
        state, progress = self.trainer.state, self.progress
        if self.resumed is not None:
            optimizer, seed = self.trainer.optimizer, self.train.seed
            self.checkpoints.finish_loading(*self.resumed, optimizer, seed)
            self.phase.metric(resumed_from=progress.resumed_from, step=state.global_step)
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
        loss = self.trainer.evaluate().get("eval_loss")
        if loss is not None:
            state = self.trainer.state
            self.phase.metric(step=state.global_step, epoch=state.epoch or 0.0, eval_loss=loss)
        return loss

    def on_step(self, step: StepRecord, step_s: float) -> None:
        """After each step: record it, and save where it is time. All ranks call it."""
        if not math.isfinite(step.loss):
            raise NonFiniteLossError(step.loss, step.step)
        progress, trainer = self.progress, self.trainer
        progress.loss = step.loss
        progress.tokens += sum(step.lengths)
        progress.trained_tokens += step.trained_tokens
        progress.train_s += step_s
        progress.peak_memory_gib = max(progress.peak_memory_gib or 0.0, step.peak_memory_gib)
        rates = self.rates.of(step, step_s)
        self.phase.metric(
            step=step.step,
            epoch=trainer.state.epoch,
            loss=step.loss,
            learning_rate=trainer.learning_rate,
            grad_norm=trainer.grad_norm,
            num_tokens=progress.tokens,
            trained_tokens=progress.trained_tokens,
            **rates,
        )
        self.phase.progress(
            step.step,
            trainer.state.max_steps,
            "steps",
            loss=step.loss,
            eval_loss=progress.eval_loss,
            tokens_per_second=rates["tokens_per_second"],
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
        """A model directory under its final name only once it is whole."""
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
            self.checkpoints.save(step, self.trainer.save_checkpoint, self.progress)

    def _finish(self) -> None:
        if self.train.lora is not None:
            self.save_weights(self.phase.paths.adapter)
            self.trainer.merge_adapter()
        self.save_weights(self.phase.paths.final_model)
        state, progress = self.trainer.state, self.progress
        predicted = forecast(
            self.spec, self.trainer.model.config, self.trainer.schedule, self.base_gib
        )
        if self.rank == 0:
            self.phase.progress(state.max_steps, state.max_steps, "steps", loss=progress.loss)
            summary = {
                "model_dir": "final_model",
                "steps": state.global_step,
                "epochs": state.epoch,
                "engine": self.engine(),
                **msgspec.to_builtins(progress),
                "memory": compared(predicted, progress.peak_memory_gib),
                "tokens_per_second": progress.tokens / progress.train_s
                if progress.train_s
                else None,
            }
            self.phase.finish(summary)
        dist.barrier()


class _Ends(TrainerCallback):
    """Tells of the training's beginning and of each epoch's end."""

    def __init__(self, training: Training) -> None:
        self._training = training

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._training.on_train_begin()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self._training.on_epoch_end()


if __name__ == "__main__":
    main()
