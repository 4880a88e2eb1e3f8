"""DeepSpeed's configuration, made from the spec alone.

The trainer receives it as a dictionary, on CPU and GPU, so that no launcher can change it.
"""

from __future__ import annotations

from typing import Any

from jobspec.spec.schema import JobSpec, TrainSpec


def deepspeed_config(spec: JobSpec, micro: int, *, on_gpu: bool) -> dict[str, Any]:
    """DeepSpeed's configuration for a spec.

    `gradient_accumulation_steps` is 1 here because the trainer hands DeepSpeed a whole step at a
    time and marks its accumulation boundary itself.
    """
    assert spec.train is not None
    train = spec.train
    low_precision = spec.model.dtype == "bfloat16"
    return {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.max_grad_norm,
        "bf16": {"enabled": low_precision},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": _zero(train, on_gpu),
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": False,
    }


def _zero(train: TrainSpec, on_gpu: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": train.zero_stage}
    if train.zero_stage == 2:
        zero |= {
            "overlap_comm": on_gpu,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "round_robin_gradients": on_gpu,
        }
    if train.zero_stage == 3:
        zero |= {
            "overlap_comm": on_gpu,
            "contiguous_gradients": True,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    pinned = {"device": "cpu", "pin_memory": on_gpu}
    if train.offload in ("optimizer", "all"):
        zero["offload_optimizer"] = pinned
    if train.offload == "all":
        zero["offload_param"] = pinned
    return zero
