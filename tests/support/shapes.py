"""The widths of a model small enough to train in a test, for any family's configuration."""

from __future__ import annotations

from typing import Any

WIDTHS: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
