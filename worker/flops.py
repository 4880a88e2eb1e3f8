"""Floating-point work of a training step, and how much of a device's peak it came to.

MFU counts the work the model needs (6 per weight and token, attention over each row's own causal
half, the output head on trained tokens alone); HFU adds the forward pass that gradient
checkpointing runs again.

Source: Chowdhery et al. 2022 (PaLM), appendix B, for MFU and HFU; vendors' data sheets for peaks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Dense bf16, FLOP/s. The first entry whose name occurs in the device's counts.
PEAKS = (
    ("H200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("GH200", 989e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("A40", 150e12),
    ("V100", 125e12),
)


def peak(device: str) -> float | None:
    """A device's dense bf16 peak in FLOP/s; None for devices that are not in the table."""
    return next((value for name, value in PEAKS if name in device), None)


@dataclass(frozen=True)
class Shape:
    """What of a model decides its work. `windows` has a layer's attention window, None for all."""

    body: int
    head: int
    attention_width: int
    windows: tuple[int | None, ...]

    @classmethod
    def of(cls, model: Any) -> Shape:
        """Read a causal language model's shape: weights without embeddings, layers, windows."""
        config = model.config.get_text_config()
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        kinds = (
            getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        )
        window = getattr(config, "sliding_window", None)
        tables = {id(m.weight): _count(m.weight) for m in (embedding, head)}
        return cls(
            body=sum(_count(p) for p in model.parameters()) - sum(tables.values()),
            head=_count(head.weight),
            attention_width=size * config.num_attention_heads,
            windows=tuple(window if kind == "sliding_attention" else None for kind in kinds),
        )

    def forward(self, lengths: Iterable[int], trained_tokens: int) -> float:
        """FLOPs of one forward pass over rows of these lengths."""
        rows = list(lengths)
        attention = sum(_pairs(row, window) for row in rows for window in self.windows)
        weights = self.body * sum(rows) + self.head * trained_tokens
        return 2.0 * weights + 4.0 * self.attention_width * attention

    def step(self, lengths: Iterable[int], trained_tokens: int) -> float:
        """FLOPs of a forward and a backward pass, nothing counted twice."""
        return 3.0 * self.forward(lengths, trained_tokens)


def _pairs(length: int, window: int | None) -> float:
    """Query-key pairs of a causal row, its own included."""
    reach = length if window is None else min(window, length)
    return reach * (reach + 1) / 2 + (length - reach) * reach


def _count(weight: Any) -> int:
    # ZeRO-3 leaves empty tensors behind and notes the size they have.
    return int(getattr(weight, "ds_numel", weight.numel()))
