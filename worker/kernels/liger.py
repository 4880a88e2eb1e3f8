"""Optional kernel packages: checks that they are installed, and applies Liger to a model."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from importlib import metadata
from typing import Any, Literal

from jobspec.errors import JobspecError, SpecError
from jobspec.spec.schema import JobSpec

# The distribution and module of each attention that is not part of torch.
ATTENTION_PACKAGES = {
    "flash_attention_2": ("flash-attn", "flash_attn"),
    "flash_attention_3": ("flash-attn-3", "flash_attn_interface"),
    "flash_attention_4": ("flash-attn-4", "flash_attn"),
}


def check(spec: JobSpec, *, on_gpu: bool) -> None:
    """Refuse a job whose attention needs a package or a GPU that this worker does not have.

    Raises:
        SpecError: with the missing package, or because there is no GPU.
    """
    asked = spec.model.attn_implementation
    if spec.train is None or asked not in ATTENTION_PACKAGES:
        return
    distribution, module = ATTENTION_PACKAGES[asked]
    if not on_gpu or not _installed(distribution, module):
        raise SpecError(
            f"`{asked}` needs {f'the package `{distribution}`' if on_gpu else 'a GPU'}",
            place="$.model.attn_implementation",
            hint='install it on the workers, or set "auto" for the fastest attention available',
        )


def _installed(distribution: str, module: str) -> bool:
    """Whether the module is installed by this distribution. FlashAttention 2 and 4 use one name."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return importlib.util.find_spec(module) is not None


def apply(model: Any, wanted: bool | Literal["auto"], *, on_gpu: bool) -> str | None:
    """Apply Liger's layer kernels to `model`; with "auto", on a GPU if they are installed.

    The loss is always TRL's chunked one, which never holds all logits at once.

    Returns:
        `liger <version>`, or None if the model's own layers are used.

    Raises:
        JobspecError: the spec requires the kernels, but they can't be used here.
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
    patch_remaining_norms(model, liger)
    return f"liger {metadata.version('liger-kernel')}"


def patch_remaining_norms(model: Any, liger: Any) -> None:
    """Give Liger's kernel to the norms that Liger left although it replaced others of their class.

    Liger patches the modules that it knows by name. Version 0.8.5 leaves the query and key norms of
    Olmo 2 and Olmo 3, which run in every layer.

    Args:
        model: one that Liger was applied to.
        liger: the module `liger_kernel.transformers.monkey_patch`.
    """
    for _, norm, fused in remaining_norms(model, liger):
        # Not in place: whether another part of the graph needs the gradient that the kernel would
        # overwrite depends on where the norm is, and Liger's choice was made for other places.
        liger._patch_rms_norm_module(
            norm,
            offset=fused.offset,
            eps=fused.variance_epsilon,
            casting_mode=fused.casting_mode,
            in_place=False,
        )


def remaining_norms(model: Any, liger: Any) -> Iterator[tuple[str, Any, Any]]:
    """Norms with Torch's operations of which Liger runs others: name, norm, one of the others."""
    fused_norm = liger.LigerRMSNorm.forward
    modules = [
        (name, module, getattr(module.forward, "__func__", None) is fused_norm)
        for name, module in model.named_modules()
    ]
    fused = {type(module): module for _, module, is_fused in modules if is_fused}
    for name, module, is_fused in modules:
        # Some families have norms without weights, which Liger's kernel can't run.
        has_weight = getattr(module, "weight", None) is not None
        if type(module) in fused and not is_fused and has_weight:
            yield name, module, fused[type(module)]
