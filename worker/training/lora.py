"""LoRA adapters by peft: the configuration for a spec, and clearer errors."""

from __future__ import annotations

from typing import Any

from jobspec.errors import JobspecError
from jobspec.spec.schema import LoraSpec


def config(lora: LoraSpec | None) -> Any:
    """The `LoraConfig` of a spec; None for full fine-tuning."""
    if lora is None:
        return None
    from peft import LoraConfig

    every = lora.target_modules == "all-linear"
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if every else list(lora.target_modules),
    )


def explained(error: ValueError, lora: LoraSpec | None) -> Exception:
    """The error to raise for one that was raised while the trainer was built."""
    if lora is None or "arget modules" not in str(error):
        return error
    return JobspecError(
        f"the model has no modules named {lora.target_modules}",
        place="$.train.lora.target_modules",
        hint='"all-linear" adapts every linear layer except the output head',
    )
