"""The loss of a micro-batch: hidden states of trained tokens alone, their logits tile by tile.

TRL's fused head does the tiles. By default it has to find out which tokens are trained, for which
a GPU is waited for in every micro-batch, and elsewhere it projects all tokens. So where a family's
logits are no more than a projection, it is given the trained ones, whose number the host knows.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from trl.kernels.chunked_logprob import ChunkedLogProbFunction
from trl.trainer.utils import add_fused_lm_head, maybe_gather_lm_head_ctx

TILE = 32768  # entries of the vocabulary at once, of 4,096 tokens
_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")

Score = Callable[[Any, dict[str, Any]], torch.Tensor]


def of(model: Any) -> Score:
    """Teach a causal language model, not yet wrapped, to score.

    Returns:
        What takes it, perhaps wrapped by then, and a micro-batch's tensors (see `feed.scored`), and
        returns the cross-entropy summed over its trained tokens, float32 [].
    """
    if is_plain(model.config):
        _teach(model)
        return _score
    add_fused_lm_head(model, outputs=("log_probs",))
    return _score_all


def is_plain(config: Any) -> bool:
    """Whether a family's logits are its head's projection, at most capped, and its loss theirs."""
    text = config.get_text_config()
    scaled = any(getattr(text, name, None) is not None for name in _SCALES)
    return not scaled and not getattr(text, "output_router_logits", False)


def _score(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    return -model(**_without(inputs, "labels", "shift_labels"), use_cache=False)


def _score_all(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    inputs = _without(inputs, "positions", "targets")
    outputs = model(**inputs, fused_lm_head=True, use_cache=False)
    return -outputs.log_probs.float().sum()


def _without(inputs: dict[str, Any], *told_twice: str) -> dict[str, Any]:
    """A micro-batch less one of the two ways in which it says what is trained."""
    return {name: value for name, value in inputs.items() if name not in told_twice}


def _teach(model: Any) -> None:
    """Let `forward` return the summed log-probability of `targets` where it is given any."""
    original = model.forward
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)

    @functools.wraps(type(model).forward)  # `generate` looks at the signature
    def forward(
        self: Any, *args: Any, positions: Any = None, targets: Any = None, **kwargs: Any
    ) -> Any:
        if targets is None:
            return original(*args, **kwargs)
        hidden = self.base_model(*args, **kwargs).last_hidden_state
        chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)
        head = self.get_output_embeddings()
        with maybe_gather_lm_head_ctx(head.weight, head.bias):  # ZeRO-3 has a part of it here
            found: Any = ChunkedLogProbFunction.apply(
                chosen, head.weight, head.bias, targets, 1.0, TILE, cap, 1.0, ()
            )
        return found[0].float().sum()

    model.forward = types.MethodType(forward, model)
