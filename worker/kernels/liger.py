"""Kernels that are packages of their own: whether they are here, and Liger's put into a model."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from typing import Any, Literal

from jobspec.errors import JobspecError, SpecError
from jobspec.spec.schema import JobSpec

# Distribution and package that bring each attention a spec may name; the others are torch's.
BRINGS = {
    "flash_attention_2": ("flash-attn", "flash_attn"),
    "flash_attention_3": ("flash-attn-3", "flash_attn_interface"),
    "flash_attention_4": ("flash-attn-4", "flash_attn"),
}


def check(spec: JobSpec, *, on_gpu: bool) -> None:
    """Refuse a job whose attention names a package that is not here, before anything is done.

    Raises:
        SpecError: naming the package, or the GPU that is missing.
    """
    asked = spec.model.attn_implementation
    if spec.train is None or asked not in BRINGS:
        return
    distribution, module = BRINGS[asked]
    if not on_gpu or not _installed(distribution, module):
        raise SpecError(
            f"`{asked}` needs {f'the package `{distribution}`' if on_gpu else 'a GPU'}",
            place="$.model.attn_implementation",
            hint='install it on the workers, or set "auto": the fastest attention that is there',
        )


def _installed(distribution: str, module: str) -> bool:
    """Whether a module is here and is this distribution's: 2 and 4 share the name `flash_attn`."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return importlib.util.find_spec(module) is not None


def apply(model: Any, wanted: bool | Literal["auto"], *, on_gpu: bool) -> str | None:
    """Put Liger's layer kernels into `model`, by default on a GPU where they are installed.

    The loss is TRL's chunked one either way, so that logits are never whole.

    Returns:
        `liger <version>`, or None where the model's own layers run.

    Raises:
        JobspecError: the spec says true, and they can't be had.
    """
    if wanted is False or (wanted == "auto" and not on_gpu):
        return None
    if importlib.util.find_spec("liger_kernel") is None or not on_gpu:
        if wanted == "auto":
            return None
        raise JobspecError(
            "Liger's kernels need a GPU and the package `liger-kernel`",
            place="$.train.use_liger_kernel",
            hint='set it to "auto", or install the extra: pip install "jobspec[gpu]"',
        )
    liger = importlib.import_module("liger_kernel.transformers.monkey_patch")
    if model.config.model_type not in liger.MODEL_TYPE_TO_APPLY_LIGER_FN:
        if wanted == "auto":
            return None
        raise JobspecError(
            f"Liger has no kernels for `{model.config.model_type}`",
            place="$.train.use_liger_kernel",
            hint='set it to "auto"',
        )
    liger._apply_liger_kernel_to_instance(
        model=model, cross_entropy=False, fused_linear_cross_entropy=False
    )
    return f"liger {metadata.version('liger-kernel')}"
