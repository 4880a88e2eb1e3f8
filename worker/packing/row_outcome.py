"""What a model computes for some rows, logits and gradients, and how two such outcomes differ."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

# Limits of the relative error (by norms) of logits and of gradients. Families whose rows are
# independent stay below 1e-5 in float32. In bfloat16, where each product is rounded to 8 bits, they
# stay below 0.03 and 0.3. The wrong attention is off by more than 0.1.
_LIMITS = (1e-3, 1e-3)
_LIMITS_16_BIT = (0.1, 0.5)


@dataclass
class RowOutcome:
    """Logits of each row, and gradients of the sum of their losses.

    Attributes:
        embedded: gradients of the embedded tokens, by row; empty if only logits were computed.
        weights: gradients of a few weights.
        leak: whether one row's loss has a gradient at the tokens of another.
    """

    logits: list[torch.Tensor]
    embedded: list[torch.Tensor]
    weights: list[torch.Tensor]
    leak: bool = False


def difference(together: RowOutcome, alone: RowOutcome, limits: tuple[float, float]) -> str | None:
    """What differs from the rows alone by more than rounding."""
    if together.leak:
        return "rows affect each other: one row's loss has a gradient at another's tokens"
    pairs = (
        ("logits", limits[0], together.logits, alone.logits),
        ("gradients of tokens", limits[1], together.embedded, alone.embedded),
        ("gradients of weights", limits[1], together.weights, alone.weights),
    )
    for name, limit, actual, expected in pairs:
        off = relative_error(actual, expected)
        if not off <= limit:  # also true for NaN
            return f"rows differ from the same rows alone: {name} by {off:.1g}"
    return None


def relative_error(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The error relative to what is expected, by norms."""
    if not expected:
        return 0.0
    a, b = (torch.cat([x.flatten().float() for x in every]) for every in (actual, expected))
    return ((a - b).norm() / b.norm().clamp(min=1e-12)).item()


def row_loss(logits: torch.Tensor) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    direction = torch.randn(logits.shape[-1], generator=draw).to(logits.device)
    return (logits.float() @ direction).sum()


def leaks(loss: torch.Tensor, tokens: torch.Tensor, place: Any) -> bool:
    """Whether a row's loss has a gradient at the tokens of other rows.

    It is exactly 0 if rows are independent, in any precision.
    """
    (off,) = torch.autograd.grad(loss, [tokens], retain_graph=True)
    off = off.clone()
    off[place] = 0
    return bool(off.any())


def sample_weights(model: Any, reached: set[torch.Tensor]) -> list[torch.Tensor]:
    """A few weights of the first and last layers, no large ones."""
    usable = [w for w in model.parameters() if w in reached and w.numel() < 1 << 24]
    return usable[1:3] + usable[-2:]


@contextlib.contextmanager
def embedded_tokens(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collects the embedded tokens of the forwards in the context, to be differentiated by."""
    found: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        found.append(output if output.requires_grad else output.detach().requires_grad_())
        return found[-1]

    handle = model.get_input_embeddings().register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def limits(dtype: torch.dtype) -> tuple[float, float]:
    """The largest errors of logits and of gradients that rounding can explain."""
    return _LIMITS if dtype.itemsize > 2 else _LIMITS_16_BIT
