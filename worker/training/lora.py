"""LoRA adapters by peft: the configuration for a spec, clearer errors, merged models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from jobspec.errors import JobspecError
from jobspec.models.config import end_tokens
from jobspec.spec.schema import JobSpec, LoraSpec
from worker.training import loading


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


def save_merged(spec: JobSpec, adapter: Path, final: Path, target: Path) -> None:
    """Save the spec's model with an adapter merged into its weights, as training saves the last.

    Args:
        adapter: a directory that training saved.
        final: the model that training made. All its files except the weights are copied.
        target: where the model goes; it must not exist.
    """
    from peft import PeftModel

    base = loading.load_model(spec, tuple(end_tokens(final)))
    # In the dtype that it was saved in, so that it is rounded as at the end of training.
    model: Any = PeftModel.from_pretrained(base, adapter, autocast_adapter_dtype=False)
    model.merge_and_unload().save_pretrained(target)
    for file in final.iterdir():
        if file.is_file() and ".safetensors" not in file.suffixes:
            shutil.copyfile(file, target / file.name)
