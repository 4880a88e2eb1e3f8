"""The single values of nested data such as a checkpoint, and whether their bits are equal."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import torch


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value inside `value` that is not itself a container, with its path."""
    if hasattr(value, "__tensor_flatten__"):  # a tensor that consists of others, of torchao
        for name in value.__tensor_flatten__()[0]:
            yield from leaves(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


def differs(one: Any, other: Any) -> bool:
    """Whether two values have different bits. NaN is equal to NaN with the same bits."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return True
        return not torch.equal(_bytes(one), _bytes(other))
    if isinstance(one, str | int | float | bool | None) and type(one) is type(other):
        return one != other and not (one != one and other != other)
    return pickle.dumps(one) != pickle.dumps(other)


def first_difference(one: Any, other: Any) -> tuple[str, Any, Any]:
    """Where in two values that differ the first difference is: `[17]`, and both values there."""
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return "", one, other
    if one.shape != other.shape or one.dtype != other.dtype:
        return "", _describe(one), _describe(other)
    size = max(1, one.element_size())
    unequal = (_bytes(one) != _bytes(other)).view(-1, size).any(dim=1)
    index = int(unequal.nonzero()[0])
    return f"[{index}]", one.reshape(-1)[index].item(), other.reshape(-1)[index].item()


def distance(one: Any, other: Any) -> float | None:
    """The largest difference of two numbers or tensors of numbers; None for others."""
    try:
        if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
            if one.shape != other.shape or not one.numel():
                return None
            return float((one.detach().double() - other.detach().double()).abs().max())
        return abs(float(one) - float(other))
    except (TypeError, ValueError, RuntimeError):
        return None


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _describe(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
