"""Compiles a model's decoder layers by torch.compile, and checks them before they are used.

Attention is left out of the compiled code: `segments` looks at the lengths of the rows, which
differ in every micro-batch, and its kernel is one that the compiler could not improve. Liger's
kernels are not applied to a compiled model: the compiler fuses the same operations itself, and on
an H200 it printed errors about Liger's Triton kernels and trained to NaN with them.

Sizes are symbolic from the first step on (`dynamic`). With code for fixed sizes, results would
depend on which sizes came earlier, and a resumed run would not repeat the losses bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from worker.kernels import trial, varlen_attention

# Variants of one layer's code: kinds of attention, with and without gradients, training or not.
_MOST_VARIANTS = 64
# Limits of the relative errors of logits and gradients (by norms), by bytes of the dtype. Compiled
# operations keep float32 between them where the model's own round to 16 bits.
_MAX_ERROR = {4: (1e-4, 1e-4), 2: (0.1, 0.1)}

Agree = Callable[[bool], bool]


def compile_layers(
    model: Any,
    line: Mapping[str, Any],
    *,
    agree: Agree,
    limits: tuple[float, float] | None = None,
) -> str | None:
    """Compile the layers of a model if they then compute the same. All ranks call it.

    Weights, gradients and random state are as before afterwards.

    Args:
        model: on its device, with its attention set, not yet wrapped.
        line: a micro-batch on the device, with which the layers are tried.
        agree: whether a condition holds on all ranks.
        limits: of the relative errors of logits and gradients, where rounding to fewer than 16
            bits makes larger ones.

    Returns:
        Why the layers are not compiled, the same on all ranks or from another one; None if they
        are.
    """
    layers = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
    training = model.training
    model.train()
    hooks: list[Any] = []
    try:
        reason = _try(model, layers, line, hooks, limits or _MAX_ERROR[model.dtype.itemsize])
    finally:
        model.train(training)
    if agree(reason is None):
        # From here on, code for a new kind of input that can't be compiled is run as it is.
        torch._dynamo.config.suppress_errors = True
        return None
    for layer in layers:
        layer._compiled_call_impl = None
    for hook in hooks:
        hook.remove()
    varlen_attention.register()
    return reason or "compiling failed on another rank"


def _try(
    model: Any,
    layers: list[Any],
    line: Mapping[str, Any],
    hooks: list[Any],
    limits: tuple[float, float],
) -> str | None:
    """Compile the layers and compare one micro-batch. Why they can't be used, or None.

    Args:
        hooks: gets those that compiled layers need.
    """
    if not layers:
        return f"the layers of `{model.config.model_type}` are not marked as such"
    weights = trial.small_weights(model)
    expected = trial.compute(model, line, weights)
    try:
        torch._dynamo.config.recompile_limit = _MOST_VARIANTS
        hooks.append(model.base_model.register_forward_pre_hook(_hide_lengths, with_kwargs=True))
        left_out = torch.compiler.disable(_attend)
        ALL_ATTENTION_FUNCTIONS.register(varlen_attention.NAME, left_out)
        for layer in layers:
            layer.compile(dynamic=True)
        actual = trial.compute(model, line, weights)
    except Exception as error:  # compilers, and the tools that they call, fail in many ways
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    outcomes = zip(("logits", "gradients"), actual, expected, limits, strict=True)
    for name, one, other, limit in outcomes:
        off = trial.relative_error(one, other)
        if not off <= limit:  # also true for NaN
            return f"compiled layers compute other {name}, by {off:.1g}"
    return None


@dataclass(frozen=True, eq=False)
class _Hidden:
    """A value that the compiler hands through without looking at it."""

    value: Any


def _hide_lengths(base: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Hide the rows' lengths, for whose number the compiler would write code again and again."""
    lengths = kwargs.get("row_lengths")
    return args, kwargs if lengths is None else kwargs | {"row_lengths": _Hidden(lengths)}


def _attend(*args: Any, row_lengths: Any = None, **kwargs: Any) -> tuple[torch.Tensor, None]:
    if isinstance(row_lengths, _Hidden):
        row_lengths = row_lengths.value
    return varlen_attention.segments(*args, row_lengths=row_lengths, **kwargs)
