"""Optimizers that Transformers' trainer does not make by itself."""

from __future__ import annotations

from typing import Any

from jobspec.spec.schema import TrainSpec


def custom(train: TrainSpec) -> tuple[Any, dict[str, Any]] | None:
    """The class and its settings for the trainer; None for torch's AdamW."""
    if train.optim != "adamw_8bit":
        return None
    from worker.kernels import adamw_8bit  # imports torchao

    betas = (train.adam_beta1, train.adam_beta2)
    settings = {"lr": train.learning_rate, "betas": betas, "eps": train.adam_epsilon}
    return adamw_8bit.FlatAdamW8bit, settings


def describe(engine: Any) -> str:
    """DeepSpeed's optimizer, and what updates the weights if that is not torch."""
    kernel = getattr(getattr(engine, "optimizer", None), "kernel", "")
    name = type(engine).__name__
    return f"{name} ({kernel})" if kernel else name
