"""The sizes of a decoder, from which memory and floating-point operations of training follow.

Source: Chowdhery et al. 2022 (PaLM), appendix B, for the count of floating-point operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

# Families whose layers are attention and one gated MLP, with the values that their config.json
# leaves out.
_FAMILIES: dict[str, dict[str, Any]] = {
    "olmo2": {},
    "olmo3": {},
    "qwen2": {},
    "qwen3": {},
    "llama": {},
    "mistral": {},
    "gemma": {"tie_word_embeddings": True},
    "gemma2": {"tie_word_embeddings": True},
    "gemma3_text": {"tie_word_embeddings": True},
}
# The part that matters here of the config.json of some models, so that a login node can estimate
# before it has fetched them. Source: their config.json on the hub; the tests compare the number of
# parameters with the model cards.
_OLMO_3: dict[str, Any] = {"model_type": "olmo3", "vocab_size": 100278, "sliding_window": 4096}
_OLMO_3_LAYERS = [*["sliding_attention"] * 3, "full_attention"]
_OLMO_3_7B: dict[str, Any] = {
    **_OLMO_3,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "layer_types": _OLMO_3_LAYERS * 8,
}
_OLMO_3_32B: dict[str, Any] = {
    **_OLMO_3,
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "layer_types": _OLMO_3_LAYERS * 16,
}


def _qwen3(hidden: int, intermediate: int, layers: int, heads: int, *, tied: bool = False) -> Any:
    return {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": tied,
    }


KNOWN_CONFIGS: dict[str, dict[str, Any]] = {
    "allenai/Olmo-3-1025-7B": _OLMO_3_7B,
    "allenai/Olmo-3-7B-Think": _OLMO_3_7B,
    "allenai/Olmo-3-7B-Instruct": _OLMO_3_7B,
    "allenai/Olmo-3-1125-32B": _OLMO_3_32B,
    "allenai/Olmo-3-32B-Think": _OLMO_3_32B,
    "Qwen/Qwen3-0.6B": _qwen3(1024, 3072, 28, 16, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 6144, 28, 16, tied=True),
    "Qwen/Qwen3-4B": _qwen3(2560, 9728, 36, 32, tied=True),
    "Qwen/Qwen3-8B": _qwen3(4096, 12288, 36, 32),
    "Qwen/Qwen3-14B": _qwen3(5120, 17408, 40, 40),
    "Qwen/Qwen3-32B": _qwen3(5120, 25600, 64, 64),
}
# Of Qwen3, what is not tuned has this suffix and the same sizes.
_SAME_SIZES = "-Base"


class DecoderShape(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of a decoder.

    `windows`: the attention window of each layer in tokens; None where a layer attends to all.
    """

    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    windows: tuple[int | None, ...]

    @property
    def layers(self) -> int:
        return len(self.windows)

    @property
    def layer(self) -> int:
        """Weights in a layer's matrices. Norms and biases add a ten-thousandth to them."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def head(self) -> int:
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """All weights; a tied embedding counts once."""
        return self.layers * self.layer + (1 if self.tied else 2) * self.head

    def adapted(self, r: int) -> int:
        """Weights of LoRA adapters of rank `r` on every linear layer but the head."""
        width = self.head_dim * (self.heads + self.kv_heads)
        sides = 2 * (2 * self.hidden + width) + 3 * (self.hidden + self.intermediate)
        return self.layers * r * sides

    def forward(self, lengths: Iterable[int], trained_tokens: int) -> float:
        """FLOPs of a forward pass over rows of these lengths; the head sees trained tokens only."""
        rows = list(lengths)
        pairs = sum(causal_pairs(row, window) for row in rows for window in self.windows)
        weights = self.layers * self.layer * sum(rows) + self.head * trained_tokens
        return 2.0 * weights + 4.0 * self.heads * self.head_dim * pairs


def causal_pairs(length: float, window: int | None) -> float:
    """Count the query-key pairs of a causal row.

    A query sees its own key and those before it, but at most `window` keys.
    """
    reach = length if window is None else min(window, length)
    return reach * (reach + 1) / 2 + (length - reach) * reach


def known(model: str) -> DecoderShape | None:
    """Return the shape of a model in `KNOWN_CONFIGS`, by its name on the hub."""
    config = KNOWN_CONFIGS.get(model) or KNOWN_CONFIGS.get(model.removesuffix(_SAME_SIZES))
    return None if config is None else of(config)


def of(config: Mapping[str, Any]) -> DecoderShape | None:
    """Return the shape that a config.json describes; None for families not in the table."""
    left_out = _FAMILIES.get(str(config.get("model_type")))
    if left_out is None:
        return None
    config = {**left_out, **config}
    try:
        heads, layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
        return DecoderShape(
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            tied=bool(config.get("tie_word_embeddings", False)),
            windows=_windows(config, layers),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _windows(config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    kinds = config.get("layer_types") or ["full_attention"] * layers
    window = config.get("sliding_window")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
