"""The loss of a micro-batch: logits are computed only for trained tokens, tile by tile.

TRL's fused head computes the tiles. By default it locates the trained tokens on the GPU, which
forces a sync in every micro-batch, and on a CPU it projects all tokens. So if a model's logits are
a plain projection, this module passes it only the trained tokens, whose number the host knows.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from trl.kernels.chunked_logprob import ChunkedLogProbFunction
from trl.trainer.utils import add_fused_lm_head, maybe_gather_lm_head_ctx

# Entries of the vocabulary per tile of 4,096 tokens, on a GPU. A CPU's caches hold smaller tiles,
# which are 1.5 to 2.4 times faster there.
TILE = 32768
CPU_TILE = 512
_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")

Score = Callable[[Any, dict[str, Any]], torch.Tensor]


def of(model: Any) -> Score:
    """Prepare a causal language model, not yet wrapped, to compute the summed loss.

    Returns:
        A function of the model (wrapped or not) and a micro-batch's tensors (with those of
        `find_targets`). It returns the cross-entropy summed over the trained tokens, float32 [].
    """
    if is_plain(model.config):
        _extend_forward(model)
        return _score
    add_fused_lm_head(model, outputs=("log_probs",))
    return _score_all


def is_plain(config: Any) -> bool:
    """Whether logits are the head's projection, perhaps capped, and the loss has no other term."""
    text = config.get_text_config()
    scaled = any(getattr(text, name, None) is not None for name in _SCALES)
    return not scaled and not getattr(text, "output_router_logits", False)


def _score(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    return -model(**_without(inputs, "labels", "shift_labels"), use_cache=False)


def _score_all(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    inputs = _without(inputs, "positions", "targets")
    outputs = model(**inputs, fused_lm_head=True, use_cache=False)
    return -outputs.log_probs.float().sum()


def _without(inputs: dict[str, Any], *names: str) -> dict[str, Any]:
    """A micro-batch without these inputs; it describes the trained tokens in two forms."""
    return {name: value for name, value in inputs.items() if name not in names}


def _extend_forward(model: Any) -> None:
    """Let `forward` return the summed log-probability of `targets`, if it is given any."""
    original = model.forward
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)

    @functools.wraps(type(model).forward)  # `generate` inspects the signature
    def forward(
        self: Any, *args: Any, positions: Any = None, targets: Any = None, **kwargs: Any
    ) -> Any:
        if targets is None:
            return original(*args, **kwargs)
        hidden = self.base_model(*args, **kwargs).last_hidden_state
        chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)
        head = self.get_output_embeddings()
        with maybe_gather_lm_head_ctx(head.weight, head.bias):  # with ZeRO-3 it is sharded
            tile = CPU_TILE if chosen.device.type == "cpu" else TILE
            log_probs: Any = ChunkedLogProbFunction.apply(
                chosen, head.weight, head.bias, targets, 1.0, tile, cap, 1.0, ()
            )
        return log_probs[0].float().sum()

    model.forward = types.MethodType(forward, model)
