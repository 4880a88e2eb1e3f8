"""Floating-point work of a training step, and how much of a device's peak it came to.

MFU counts the work the model needs (6 per weight and token, attention over each row's own causal
half, the output head on trained tokens alone; 4 where adapters alone are trained). HFU adds what is
computed twice: the layers under gradient checkpointing, the head's logits, which are never kept.

Source: Chowdhery et al. 2022 (PaLM), appendix B, for MFU and HFU; vendors' data sheets for peaks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jobspec.models.config import causal_pairs
from jobspec.models.devices import peak

__all__ = ["Shape", "peak"]


@dataclass(frozen=True)
class Shape:
    """What of a model decides its work. `windows` has a layer's attention window, None for all.

    Read off the model itself, so that it holds for any family; `jobspec.models.config` has what a
    config.json tells before there is one.
    """

    body: int
    head: int
    attention_width: int
    windows: tuple[int | None, ...]
    frozen: bool = False

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
            frozen=not head.weight.requires_grad,
        )

    def forward(self, lengths: Iterable[int], trained_tokens: int) -> float:
        """FLOPs of one forward pass over rows of these lengths."""
        rows = list(lengths)
        weights = self.body * sum(rows) + self.head * trained_tokens
        return 2.0 * weights + self._attention(rows)

    def step(self, lengths: Iterable[int], trained_tokens: int) -> float:
        """FLOPs of a forward and a backward pass, nothing counted twice."""
        rows = list(lengths)
        forward = self.forward(rows, trained_tokens)
        # Frozen weights get no gradient: half of the backward pass, but for attention's, is not.
        return 2.0 * forward + self._attention(rows) if self.frozen else 3.0 * forward

    def again(self, lengths: Iterable[int], trained_tokens: int, *, layers: bool) -> float:
        """FLOPs computed a second time: the head's logits, the layers where they are not kept."""
        return self.forward(lengths if layers else (), trained_tokens)

    def _attention(self, rows: Iterable[int]) -> float:
        pairs = sum(causal_pairs(row, window) for row in rows for window in self.windows)
        return 4.0 * self.attention_width * pairs


def _count(weight: Any) -> int:
    # ZeRO-3 leaves empty tensors behind and notes the size they have.
    return int(getattr(weight, "ds_numel", weight.numel()))
