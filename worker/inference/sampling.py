"""Samples one token for each row; each row has its own random stream."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worker.inference.requests import Sampling

_FIRST_WIDTH = 256


def uniforms(seed: int, length: int) -> Tensor:
    """A sample's random stream: `length` uniform numbers, float64, the same on every machine."""
    return torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(
    logits: Tensor, uniform: Tensor, sampling: Sampling, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sample a token for each row by inverting the distribution function at `uniform`.

    The order is that of vLLM: presence penalty, temperature, min-p, top-k, top-p. The token of a
    row depends only on its own logits and number: equal logits give equal text in any batch.

    Args:
        logits: float [rows, vocabulary].
        uniform: float64 [rows].
        sampling: the settings.
        seen: bool [rows, vocabulary], tokens generated so far; needed with a presence penalty.

    Returns:
        The tokens, int64 [rows], and their log-probabilities under the distribution drawn from.
    """
    logits = logits.float()
    if seen is not None and sampling.presence_penalty:
        logits = logits - sampling.presence_penalty * seen
    if sampling.temperature == 0:
        return logits.argmax(-1), torch.zeros(logits.shape[0], device=logits.device)
    logits = logits / sampling.temperature
    if sampling.min_p:
        floor = logits.amax(-1, keepdim=True) + math.log(sampling.min_p)
        logits = logits.masked_fill(logits < floor, -math.inf)
    kept, tokens = _candidates(logits.softmax(-1), sampling)
    reached = _running_sums(kept)
    total = reached[:, -1:]
    wanted = uniform.to(kept.device, kept.dtype)[:, None] * total
    last = (kept > 0).sum(-1, keepdim=True) - 1 if tokens is not None else _last(kept)
    place = torch.searchsorted(reached, wanted, right=True).minimum(last)
    chosen = place if tokens is None else tokens.gather(-1, place)
    return chosen[:, 0], (kept.gather(-1, place) / total).log()[:, 0]


def _candidates(probabilities: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor | None]:
    """The probabilities of the candidates in falling order with their tokens; all others are 0.

    Without top-k and top-p nothing is sorted, and the tokens are None.
    """
    if sampling.top_k is None and sampling.top_p >= 1:
        return probabilities, None
    vocabulary = probabilities.shape[-1]
    width = min(vocabulary, sampling.top_k or _FIRST_WIDTH)
    while True:
        kept, tokens = probabilities.topk(width, dim=-1)
        mass = kept.sum(-1, keepdim=True) if sampling.top_k is not None else kept.new_ones(1)
        before = _running_sums(kept) - kept
        if width in (vocabulary, sampling.top_k) or bool((before[:, -1] >= sampling.top_p).all()):
            return kept.masked_fill(before >= sampling.top_p * mass, 0.0), tokens
        # The distribution is flat, and the nucleus is wider than was guessed.
        width = min(vocabulary, width * 8)


def _running_sums(values: Tensor) -> Tensor:
    """Sums up to each value. CUDA adds them up in an order that varies, so here a CPU does."""
    if values.is_cuda and torch.are_deterministic_algorithms_enabled():
        return values.cpu().cumsum(-1).to(values.device)
    return values.cumsum(-1)


def _last(kept: Tensor) -> Tensor:
    """The last token with a probability above 0, for numbers that round up to 1."""
    positions = torch.arange(kept.shape[-1], device=kept.device)
    return (positions * (kept > 0)).amax(-1, keepdim=True)
