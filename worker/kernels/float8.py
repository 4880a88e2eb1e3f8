"""Lets a model's linear layers multiply in float8 by torchao, checked on the device before use.

Each row of a matrix has a scale of its own, a power of two. Weights, gradients and all else keep
their dtype and names. Only linear layers inside decoder layers are replaced, if their sizes are
multiples of 16 and if every token runs through them: not the head, a router or a single expert.
The number of tokens in a micro-batch must be a multiple of 16 too, because the gradient of a weight
is a product along the tokens.

A failed check ends the job, as that of an attention kernel which a spec names. Continuing in
bfloat16 would train other losses than the spec says, and perhaps only after a resume elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torchao
from torch import nn
from torchao.float8 import Float8LinearConfig, convert_to_float8_training
from transformers.modeling_layers import GradientCheckpointingLayer

from jobspec.errors import JobspecError
from jobspec.models.config import has_experts
from worker.kernels import trial

MULTIPLE = 16  # of the sizes of matrices, and of the tokens in a micro-batch
EMULATED = False  # tests and benchmarks set it: multiply in float32 what was rounded to float8
_HOPPER = (9, 0)  # compute capability
# Limits of relative errors, by norms. float8 (e4m3) rounds a number by at most 1/16 and, where
# numbers are spread evenly, by 2.6 % on average; both factors together make 3.7 % of error in a
# product of matrices, whatever their sizes. A wrong scale is off by 50 % or more.
_MAX_PRODUCT_ERROR = 0.1
# Of a whole model. Errors add up over the layers: with emulated products and random weights, logits
# of 2 to 32 layers of Olmo-3 and Qwen3 differed by 3 to 26 %, gradients by 9 to 60 %. What has
# nothing in common differs by 140 %.
MODEL_LIMITS = (0.5, 1.0)  # of logits and gradients
_PRODUCTS = ("values", "row gradients", "weight gradients")
_TRIED_TOKENS = 64

Agree = Callable[[bool], bool]


def convert(model: Any, line: Mapping[str, Any], *, agree: Agree) -> str:
    """Replace a model's linear layers. All ranks call it.

    Args:
        model: on its device, with its attention set, not yet compiled or wrapped.
        line: a micro-batch on the device, of a multiple of `MULTIPLE` tokens.
        agree: whether a condition holds on all ranks.

    Returns:
        What was replaced, for the records.

    Raises:
        JobspecError: the device or the model is not suited, or products are wrong.
    """
    _refuse_device(model.device)
    training = model.training
    model.train()
    try:
        count, reason = _try(model, line)
    finally:
        model.train(training)
    if not agree(reason is None):
        raise _refusal(reason or "float8 failed on another rank")
    emulated = ", emulated" if EMULATED else ""
    return f"{count} linear layers by torchao {torchao.__version__}{emulated}"


def _refusal(reason: str) -> JobspecError:
    return JobspecError(
        f"the model can't be trained in float8: {reason}",
        place="$.train.precision",
        hint="leave precision out to train in bfloat16",
    )


def _refuse_device(device: torch.device) -> None:
    if EMULATED:
        return
    if device.type != "cuda":
        raise _refusal("it needs a GPU of NVIDIA's Hopper generation or a newer one")
    if torch.cuda.get_device_capability(device) < _HOPPER:
        name = torch.cuda.get_device_name(device)
        raise _refusal(f"`{name}` is older than NVIDIA's Hopper generation")


def _try(model: Any, line: Mapping[str, Any]) -> tuple[int, str | None]:
    """Replace the linear layers. Returns how many, and why they can't be used or None."""
    if has_experts(model.config.to_dict()):
        return 0, "it is a mixture of experts, which get few tokens each"
    layers = _suited_layers(model, line)
    if not layers:
        return 0, f"`{model.config.model_type}` has no decoder layers with suited linear layers"
    samples = _one_of_each_shape(layers)
    weights = trial.small_weights(model) + [layer.weight for layer in samples]
    expected = trial.compute(model, line, weights)
    for layer in samples:
        if (reason := _product_trouble(layer)) is not None:
            return 0, reason
    chosen = set(layers)
    convert_to_float8_training(
        model, config=_config(), module_filter_fn=lambda module, name: module in chosen
    )
    actual = trial.compute(model, line, weights)
    outcomes = zip(("logits", "gradients"), actual, expected, MODEL_LIMITS, strict=True)
    for name, one, other, limit in outcomes:
        off = trial.relative_error(one, other)
        if not off <= limit:  # also true for NaN
            return 0, f"{name} differ from bfloat16's by {off:.1g}"
    return len(layers), None


def _config() -> Float8LinearConfig:
    return dataclasses.replace(Float8LinearConfig.from_recipe_name("rowwise"), emulate=EMULATED)


def _suited_layers(model: Any, line: Mapping[str, Any]) -> list[nn.Linear]:
    """The linear layers inside decoder layers that all tokens of a line run through."""
    tokens = line["input_ids"].numel()
    found: dict[nn.Linear, bool] = {}

    def see(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(layer, nn.Linear)
        whole = bool(args) and args[0].numel() == tokens * layer.in_features
        found[layer] = found.get(layer, True) and whole

    hooks = [each.register_forward_pre_hook(see) for each in _linear_layers(model)]
    try:
        with torch.no_grad():
            model(**line, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [layer for layer, whole in found.items() if whole]


def _linear_layers(model: Any) -> Iterator[nn.Linear]:
    inside = (each for each in model.modules() if isinstance(each, GradientCheckpointingLayer))
    every = dict.fromkeys(module for layer in inside for module in layer.modules())
    for module in every:
        if type(module) is nn.Linear and not any(size % MULTIPLE for size in module.weight.shape):
            yield module


def _one_of_each_shape(layers: list[nn.Linear]) -> list[nn.Linear]:
    return list({layer.weight.shape: layer for layer in layers}.values())


def _product_trouble(layer: nn.Linear) -> str | None:
    """Compare the three products of one layer with bfloat16's, for random rows."""
    copy = nn.Sequential(nn.Linear(1, 1, bias=False, device="meta"))
    copy[0] = plain = nn.Linear(layer.in_features, layer.out_features, False, device="meta")
    plain.weight = layer.weight
    draw = torch.Generator(layer.weight.device).manual_seed(0)
    like = {"generator": draw, "device": layer.weight.device, "dtype": layer.weight.dtype}
    rows = torch.randn(_TRIED_TOKENS, layer.in_features, **like)
    direction = torch.randn(_TRIED_TOKENS, layer.out_features, **like)
    expected = _products(copy, rows, direction)
    actual = _products(convert_to_float8_training(copy, config=_config()), rows, direction)
    for name, one, other in zip(_PRODUCTS, actual, expected, strict=True):
        off = trial.relative_error(one.float(), other.float())
        if not off <= _MAX_PRODUCT_ERROR:  # also true for NaN
            shape = f"{layer.out_features} × {layer.in_features}"
            return f"{name} of a linear layer of {shape} weights are off by {off:.1g}"
    return None


def _products(layer: nn.Module, rows: torch.Tensor, direction: torch.Tensor) -> Any:
    """Values, and gradients of rows and weights."""
    rows = rows.clone().requires_grad_()
    (weight,) = layer.parameters()
    with torch.enable_grad():
        values = layer(rows)
        gradients = torch.autograd.grad(values, [rows, weight], direction)
    return values.detach(), *gradients
