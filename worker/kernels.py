"""Liger's fused Triton kernels for a model's norms, rotations and gates, where they serve."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Literal

from jobspec.errors import JobspecError


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
    from importlib.metadata import version

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
    return f"liger {version('liger-kernel')}"
