"""Token ids and labels of some rows, collated into a micro-batch's tensors.

Rows are padded side by side, packed one after the other, or packed and sharded over the ranks of a
sequence-parallel group.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch

from worker.data.dataset_cache import IGNORED


@dataclass(frozen=True)
class Shard:
    """Which part of each line's tokens a rank holds under sequence parallelism."""

    index: int = 0
    count: int = 1


WHOLE = Shard()


def pad(ids: list[torch.Tensor], labels: list[torch.Tensor], token: int) -> dict[str, torch.Tensor]:
    """Rows side by side, padded on the right to the longest.

    Returns:
        int64 [rows, tokens] `input_ids`, `labels`, with more than one row also `attention_mask`.
    """
    pad_rows = torch.nn.utils.rnn.pad_sequence
    batch = {
        "input_ids": pad_rows(ids, batch_first=True, padding_value=token),
        "labels": pad_rows(labels, batch_first=True, padding_value=IGNORED),
    }
    if len(ids) > 1:
        ones = [torch.ones_like(row) for row in ids]
        batch["attention_mask"] = pad_rows(ones, batch_first=True)
    return batch


def pack(ids: list[torch.Tensor], labels: list[torch.Tensor]) -> dict[str, Any]:
    """Rows one after the other in one line, kept apart by position ids and sequence bounds.

    Returns:
        int64 [1, tokens] `input_ids`, `labels`, `position_ids`, int32 [rows + 1] `cu_seq_lens_*`,
        on the host the rows' lengths and the longest.
    """
    lengths = tuple(len(row) for row in ids)
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    for label in labels:
        label[0] = IGNORED  # a row's first token is never predicted from another row
    return {
        "input_ids": torch.cat(ids)[None],
        "labels": torch.cat(labels)[None],
        "position_ids": torch.cat([torch.arange(len(row)) for row in ids])[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        "row_lengths": lengths,
    }


def shard(
    ids: list[torch.Tensor], labels: list[torch.Tensor], token: int, part: Shard
) -> dict[str, Any]:
    """One rank's tokens of a line whose length is filled up to a multiple of the ranks.

    Labels are shifted before the line is cut: a part's last token predicts the next part's first.
    Positions and bounds stay the whole line's.

    Returns:
        int64 [1, tokens / ranks] `input_ids`, `shift_labels`, `position_ids`; bounds as `pack`.
    """
    missing = -sum(len(row) for row in ids) % part.count
    if missing:
        ids = [*ids, torch.full((missing,), token)]
        labels = [*labels, torch.full((missing,), IGNORED)]
    line = pack(ids, labels)
    shifted = torch.nn.functional.pad(line.pop("labels")[:, 1:], (0, 1), value=IGNORED)
    line["shift_labels"] = shifted
    for name in ("input_ids", "shift_labels", "position_ids"):
        line[name] = line[name].chunk(part.count, dim=1)[part.index].contiguous()
    return line


def find_targets(line: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Where a micro-batch's hidden states are scored, and against which tokens.

    Found here, on the host: a device asked how many they are would have to be waited for.

    Returns:
        int64 [trained tokens] `positions` in the line, or in lines one after the other, `targets`.
    """
    shifted = line.get("shift_labels")
    if shifted is None:
        shifted = torch.nn.functional.pad(line["labels"][:, 1:], (0, 1), value=IGNORED)
    labels = shifted.reshape(-1)
    (positions,) = (labels != IGNORED).nonzero(as_tuple=True)
    return {"positions": positions, "targets": labels[positions]}


def to_device(line: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A micro-batch on a device, the copies not waited for."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in line.items()
    }
