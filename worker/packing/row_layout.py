"""How the rows of a micro-batch are laid out for a model."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import torch

from worker.packing.collate import add_seq_idx, pack, pad, with_padding


@dataclass(frozen=True)
class RowLayout:
    """How the rows of a micro-batch are laid out for a model.

    Attributes:
        attention: the attention implementation that it goes with.
        seq_idx: whether a packed line says for each token which row it belongs to.
        reason: why a better layout is not used.
        multiple: the number of tokens of each line is padded to a multiple of it.
    """

    rows: Literal["packed", "padded"]
    attention: str
    seq_idx: bool = False
    reason: str | None = None
    multiple: int = 1

    def __str__(self) -> str:
        return f"{self.rows} with `{'seq_idx' if self.seq_idx else self.attention}`"

    @property
    def padded(self) -> bool:
        return self.rows == "padded"

    def collate(self, ids: list[torch.Tensor], labels: list[torch.Tensor], pad_token: int) -> Any:
        """One micro-batch."""
        if self.padded:
            return pad(ids, labels, pad_token, self.multiple)
        line = pack(*with_padding(ids, labels, pad_token, self.multiple))
        return add_seq_idx(line) if self.seq_idx else line

    def places(self, lengths: tuple[int, ...]) -> list[tuple[int, slice]]:
        """Where each row is in the [lines, tokens] of a micro-batch."""
        if self.padded:
            return [(line, slice(0, length)) for line, length in enumerate(lengths)]
        ends = itertools.accumulate(lengths)
        return [(0, slice(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
