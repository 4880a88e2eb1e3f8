"""A model's shape: what of its config.json decides how much memory and work training it takes.

Source: Chowdhery et al. 2022 (PaLM), appendix B, for the count of floating-point operations.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

# Families whose layers are attention and one gated MLP, and what their config.json leaves unsaid.
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
# Those of the matrix this project was made for, for login nodes that have not fetched them yet.
_OLMO_3_7B: dict[str, Any] = {
    "model_type": "olmo3",
    "vocab_size": 100278,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "sliding_window": 4096,
    "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 8,
}
# What is said of their config.json, by name on the hub.
KNOWN_CONFIGS: dict[str, dict[str, Any]] = {
    "allenai/Olmo-3-7B-Think": _OLMO_3_7B,
    "allenai/Olmo-3-7B-Instruct": _OLMO_3_7B,
    "Qwen/Qwen3-8B": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
}


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of a decoder. `windows` has a layer's attention window, None for all before a token."""

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
        """Weights of a layer's matrices; norms and biases are a ten-thousandth of them."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def head(self) -> int:
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """All weights, a tied table once."""
        return self.layers * self.layer + (1 if self.tied else 2) * self.head

    def adapted(self, r: int) -> int:
        """Weights of LoRA adapters of rank `r` on every linear layer but the head."""
        width = self.head_dim * (self.heads + self.kv_heads)
        sides = 2 * (2 * self.hidden + width) + 3 * (self.hidden + self.intermediate)
        return self.layers * r * sides

    def forward(self, lengths: Iterable[int], trained_tokens: int) -> float:
        """FLOPs of a forward pass over rows of these lengths, the head on trained tokens alone."""
        rows = list(lengths)
        pairs = sum(causal_pairs(row, window) for row in rows for window in self.windows)
        weights = self.layers * self.layer * sum(rows) + self.head * trained_tokens
        return 2.0 * weights + 4.0 * self.heads * self.head_dim * pairs


def causal_pairs(length: float, window: int | None) -> float:
    """Query-key pairs of a causal row, its own included; each query sees `window` keys at most."""
    reach = length if window is None else min(window, length)
    return reach * (reach + 1) / 2 + (length - reach) * reach


def read(config: Path) -> Shape | None:
    """The shape in a config.json; None for families that are not in the table, or a torn file."""
    try:
        return of(msgspec.json.decode(config.read_bytes(), type=dict[str, Any]))
    except (OSError, msgspec.MsgspecError):
        return None


def known(model: str) -> Shape | None:
    """The shape of a model that needs no config.json to be known."""
    found = KNOWN_CONFIGS.get(model)
    return None if found is None else of(found)


def of(config: dict[str, Any]) -> Shape | None:
    """The shape a config describes; None where it can't be told."""
    unsaid = _FAMILIES.get(str(config.get("model_type")))
    if unsaid is None:
        return None
    config = unsaid | config
    try:
        heads, layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
        return Shape(
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


def _windows(config: dict[str, Any], layers: int) -> tuple[int | None, ...]:
    kinds = config.get("layer_types") or ["full_attention"] * layers
    window = config.get("sliding_window")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
