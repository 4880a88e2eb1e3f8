"""Which parts of a loaded model are used and how to run one whose weights are sharded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks
from transformers import PreTrainedModel


def is_sharded(model: nn.Module) -> bool:
    """Whether ZeRO-3 has divided the weights among the ranks."""
    return any(hasattr(weight, "ds_id") for weight in model.parameters())


def _size(weight: Any) -> int:
    # ZeRO-3 leaves an empty tensor where a weight is sharded.
    return int(getattr(weight, "ds_numel", weight.numel()))


@contextlib.contextmanager
def gathered(model: Any, device: torch.device) -> Iterator[None]:
    """Run a model whose weights ZeRO-3 has sharded, before there is an engine. No gradients.

    Layers are gathered one at a time, all other weights for the whole time. All ranks run the same
    forwards. A model that is not sharded is left alone.
    """
    if not is_sharded(model):
        yield
        return
    # Imported here because only ZeRO-3 needs it.
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters

    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    layers = [layer for part in outermost_lists(model) for layer in part]
    inside = {id(weight) for layer in layers for weight in layer.parameters()}
    rest = [weight for weight in model.parameters() if id(weight) not in inside]
    running: list[Any] = []

    def gather(module: nn.Module, args: Any) -> None:
        running.append(GatheredParameters(list(module.parameters())))
        running[-1].__enter__()

    def release(module: nn.Module, args: Any, output: Any) -> None:
        running.pop().__exit__(None, None, None)

    with contextlib.ExitStack() as stack:
        stack.enter_context(GatheredParameters(rest))
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(gather).remove)
            stack.callback(layer.register_forward_hook(release, always_call=True).remove)
        yield


def outermost_lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    """The lists of layers that are not inside a layer of another list."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from outermost_lists(child)


@contextlib.contextmanager
def called_modules() -> Iterator[set[nn.Module]]:
    """Collects every module whose forward is called in the context."""
    called: set[nn.Module] = set()
    handle = hooks.register_module_forward_pre_hook(lambda module, args: called.add(module))
    try:
        yield called
    finally:
        handle.remove()


def reached_weights(output: torch.Tensor) -> set[torch.Tensor]:
    """The weights that an output depends on, by its graph. Nothing is computed."""
    found: set[torch.Tensor] = set()
    seen: set[Any] = set()
    queue = [output.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        weight = getattr(node, "variable", None)  # only the nodes at which a graph begins have one
        if weight is not None:
            found.add(weight)
        queue += [parent for parent, _ in node.next_functions]
    return found


def unused_parts(
    model: nn.Module, called: set[nn.Module], reached: set[torch.Tensor]
) -> tuple[str, ...]:
    """Names of the parts that text does not run through, such as a vision tower.

    A part is a child of the model, or of a model inside it, in which no module was called. A layer
    is one only if no layer of its class was called. Modules inside a layer never are: a few tokens
    do not reach all experts. Weights that are shared with a used part belong to it.

    Args:
        called: the modules that computed some rows.
        reached: weights that the logits depend on, if known.
    """
    direct = {weight for module in called for weight in module.parameters(recurse=False)}
    used = direct | reached
    return tuple(
        name
        for name, part in _parts(model, called, "")
        if any(True for _ in part.parameters()) and used.isdisjoint(part.parameters())
    )


def _parts(
    module: nn.Module, called: set[nn.Module], prefix: str
) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if called.isdisjoint(child.modules()):
            yield path, child
        elif isinstance(child, PreTrainedModel):
            yield from _parts(child, called, f"{path}.")
        elif isinstance(child, nn.ModuleList):
            kinds = {type(layer) for layer in child if not called.isdisjoint(layer.modules())}
            for number, layer in child.named_children():
                if type(layer) not in kinds and called.isdisjoint(layer.modules()):
                    yield f"{path}.{number}", layer


def freeze(model: nn.Module, parts: Iterable[str]) -> None:
    """Exclude these parts from training, so that weight decay does not change them."""
    for part in parts:
        model.get_submodule(part).requires_grad_(False)


@dataclass(frozen=True)
class WeightCounts:
    """The weights of a model, and how many of them are trained. Shared ones count once."""

    total: int
    trained: int


def count_weights(model: nn.Module) -> WeightCounts:
    """Count a model's weights, those on other ranks included."""
    weights = list(model.parameters())
    return WeightCounts(sum(map(_size, weights)), sum(_size(w) for w in weights if w.requires_grad))
