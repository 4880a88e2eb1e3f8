"""Floating-point work of a training step, from which MFU and HFU follow.

MFU counts the work that the model needs: 6 FLOPs for each weight and token (4 where only adapters
are trained), attention over each row's own causal half, and the output head on trained tokens only.
HFU adds what is computed twice: the layers under gradient checkpointing, and the head's logits,
which are never kept.

Source: Chowdhery et al. 2022 (PaLM), appendix B.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jobspec.models.decoder_shape import causal_pairs


@dataclass(frozen=True)
class FlopModel:
    """The sizes that determine a model's FLOPs, counted on the loaded model.

    `jobspec.models.decoder_shape` estimates the same from config.json.

    Attributes:
        body: weights except those of the embedding and the output head.
        head: weights of the output head.
        attention_width: attention heads × their dimension.
        windows: the attention window of each layer in tokens; None for all tokens before.
        frozen: whether the head, and so every weight but the adapters, gets no gradient.
    """

    body: int
    head: int
    attention_width: int
    windows: tuple[int | None, ...]
    frozen: bool = False

    @classmethod
    def of(cls, model: Any) -> FlopModel:
        """Count the weights of a causal language model, and read its layers and windows."""
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
        """FLOPs of a forward and a backward pass, without what is computed twice."""
        rows = list(lengths)
        forward = self.forward(rows, trained_tokens)
        # Frozen weights get no gradient. That saves half of the backward pass, except attention's.
        return 2.0 * forward + self._attention(rows) if self.frozen else 3.0 * forward

    def recomputed(self, lengths: Iterable[int], trained_tokens: int, *, share: float) -> float:
        """FLOPs computed a second time: the head's logits, and this share of the layers."""
        return self.forward((), trained_tokens) + share * self.forward(lengths, 0)

    def _attention(self, rows: Iterable[int]) -> float:
        kinds = Counter(self.windows).items()
        pairs = sum(layers * causal_pairs(row, size) for row in rows for size, layers in kinds)
        return 4.0 * self.attention_width * pairs


def _count(weight: Any) -> int:
    # ZeRO-3 leaves empty tensors and keeps their true size in an attribute.
    return int(getattr(weight, "ds_numel", weight.numel()))
