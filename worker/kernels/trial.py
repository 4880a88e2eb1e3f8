"""What a model computes for a small input, before and after its layers are replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch


def compute(
    model: Any, line: Mapping[str, Any], weights: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and gradients of these weights; of the logits if there are none.

    The random state is the same in every call, for dropout, and as before afterwards.

    Args:
        line: a micro-batch on the model's device.
    """
    with _same_random_state(), torch.enable_grad():
        logits = model(**line, use_cache=False).logits.float()
        loss = logits.log_softmax(-1)[..., 0].sum()
        gradients = torch.autograd.grad(loss, list(weights) or [logits], allow_unused=True)
    found = [each.float().flatten() for each in gradients if each is not None]
    return logits.detach(), torch.cat(found)


def small_weights(model: Any) -> list[torch.Tensor]:
    """Those of norms and biases."""
    return [weight for weight in model.parameters() if weight.ndim == 1 and weight.requires_grad]


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The error relative to what is expected, by norms."""
    return ((actual - expected).norm() / expected.norm().clamp(min=1e-12)).item()


@contextlib.contextmanager
def _same_random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
