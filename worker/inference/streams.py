"""The random stream of a sample, and the next tokens of several samples with their own streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from worker.inference.requests import Sampling
from worker.inference.sampling import draw, uniforms


@dataclass
class SampleStream:
    """What one sample has so far, and what it needs for its next token.

    Attributes:
        tokens: the tokens drawn so far, an end token included.
        logprob: their summed log-probability.
        watch: whether the tokens so far have reached a stop string, if there are any.
        end_token: what is drawn after a stop string, so that the engine ends the sample.
        stopped: a stop string was reached; `tokens` ends with it.
    """

    seed: int
    sampling: Sampling
    watch: Callable[[Sequence[int]], bool] | None = None
    end_token: int | None = None
    logprob: float = 0.0
    tokens: list[int] = field(default_factory=list[int])
    stopped: bool = False

    def __post_init__(self) -> None:
        self.uniforms = uniforms(self.seed, self.sampling.max_gen_toks)

    def add(self, token: int, logprob: float) -> None:
        self.tokens.append(token)
        self.logprob += logprob
        if self.watch is not None and self.end_token is not None:
            self.stopped = self.watch(self.tokens)


def draw_next(scores: Tensor, streams: Sequence[SampleStream]) -> None:
    """Draw a token for each stream, and make it the likeliest one in `scores`.

    Args:
        scores: float [rows, vocabulary], changed in place; rows beyond the streams are ignored.
        streams: of the first rows.
    """
    for row, stream in enumerate(streams):
        if stream.stopped:
            scores[row, stream.end_token] = torch.inf
    running = [(row, stream) for row, stream in enumerate(streams) if not stream.stopped]
    for sampling in {stream.sampling for _, stream in running}:
        rows = [row for row, stream in running if stream.sampling == sampling]
        _draw_alike(scores, rows, [streams[row] for row in rows], sampling)


def _draw_alike(
    scores: Tensor, rows: list[int], streams: list[SampleStream], sampling: Sampling
) -> None:
    numbers = torch.stack([stream.uniforms[len(stream.tokens)] for stream in streams])
    index = torch.tensor(rows, device=scores.device)
    logits = scores[index]
    seen = _seen(streams, logits) if sampling.presence_penalty else None
    tokens, logprobs = draw(logits, numbers.to(scores.device), sampling, seen)
    scores[index, tokens] = torch.inf
    for stream, token, logprob in zip(streams, tokens.tolist(), logprobs.tolist(), strict=True):
        stream.add(token, logprob)


def _seen(streams: list[SampleStream], logits: Tensor) -> Tensor:
    """The tokens that each sample has so far: bool [rows, vocabulary]."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for row, stream in enumerate(streams):
        seen[row, stream.tokens] = True
    return seen


class DrawOne(LogitsProcessor):
    """Lets Transformers' greedy `generate` draw one sample from its own stream."""

    def __init__(self, stream: SampleStream) -> None:
        self._stream = stream

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        draw_next(scores, [self._stream])
        return scores
