"""TRL's trainer configuration for a spec."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from trl.trainer.sft_config import SFTConfig

from jobspec.spec.schema import JobSpec, TrainSpec


def trainer_arguments(
    spec: JobSpec,
    *,
    output_dir: Path,
    deepspeed: dict[str, Any],
    micro_batch_size: int,
    steps_per_epoch: int,
    recomputed_layers: int,
    on_gpu: bool,
) -> SFTConfig:
    """The trainer's arguments: the spec's settings, with saving, logging and evaluation off.

    `gradient_accumulation_steps` is 1: `RowTrainer` runs all micro-batches of a step itself.
    """
    train = spec.train
    assert train is not None
    steps = math.ceil(train.num_train_epochs * steps_per_epoch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return SFTConfig(
            output_dir=str(output_dir),
            deepspeed=deepspeed,
            use_cpu=not on_gpu,
            bf16=spec.model.dtype == "bfloat16",
            fp16=False,
            learning_rate=train.learning_rate,
            num_train_epochs=train.num_train_epochs,
            per_device_train_batch_size=micro_batch_size,
            gradient_accumulation_steps=1,
            lr_scheduler_type=train.lr_scheduler_type,
            warmup_steps=warmup_steps(train, steps),
            # Transformers' own "adamw_8bit" is another package's.
            optim="adamw_torch" if train.optim == "adamw_8bit" else train.optim,
            adam_beta1=train.adam_beta1,
            adam_beta2=train.adam_beta2,
            adam_epsilon=train.adam_epsilon,
            weight_decay=train.weight_decay,
            max_grad_norm=train.max_grad_norm,
            seed=train.seed,
            gradient_checkpointing=recomputed_layers > 0,
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


def warmup_steps(train: TrainSpec, steps: int) -> int:
    """Steps of rising learning rate: never all of them, so that the full rate is reached."""
    return min(math.ceil(train.warmup_ratio * steps), steps - 1)
