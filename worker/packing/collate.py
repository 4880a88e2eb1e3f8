"""Collates token ids and labels of rows into the tensors of a micro-batch.

Rows are padded, packed, or packed and sharded over the ranks of a sequence-parallel group.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch

from worker.data.dataset_cache import IGNORED


@dataclass(frozen=True)
class Shard:
    """The part of each pack's tokens that a rank holds with sequence parallelism."""

    index: int = 0
    count: int = 1


WHOLE = Shard()


def pad(
    ids: list[torch.Tensor], labels: list[torch.Tensor], token: int, multiple: int = 1
) -> dict[str, torch.Tensor]:
    """Pad rows on the right to the length of the longest, or to the next multiple of a number.

    Returns:
        int64 [rows, tokens] `input_ids` and `labels`; with several rows or padding also
        `attention_mask`.
    """
    more = -max(map(len, ids)) % multiple

    def side_by_side(rows: list[torch.Tensor], value: int) -> torch.Tensor:
        together = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
        return torch.nn.functional.pad(together, (0, more), value=value)

    batch = {"input_ids": side_by_side(ids, token), "labels": side_by_side(labels, IGNORED)}
    if len(ids) > 1 or more:
        batch["attention_mask"] = side_by_side([torch.ones_like(row) for row in ids], 0)
    return batch


def with_padding(
    ids: list[torch.Tensor], labels: list[torch.Tensor], token: int, multiple: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Add a last row without trained tokens, so that the tokens are a multiple of a number.

    As a row of its own it affects no other row.
    """
    missing = -sum(map(len, ids)) % multiple
    if not missing:
        return ids, labels
    return [*ids, torch.full((missing,), token)], [*labels, torch.full((missing,), IGNORED)]


def pack(ids: list[torch.Tensor], labels: list[torch.Tensor]) -> dict[str, Any]:
    """Concatenate rows. Position ids and `cu_seq_lens_*` separate them.

    Returns:
        int64 [1, tokens] `input_ids`, `labels` and `position_ids`, int32 [rows + 1]
        `cu_seq_lens_*`, and as Python integers the rows' lengths and the longest one.
    """
    lengths = tuple(len(row) for row in ids)
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    for label in labels:
        label[0] = IGNORED  # the first token of a row must not be predicted from the row before
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


def add_seq_idx(line: dict[str, Any]) -> dict[str, Any]:
    """A packed line that also says for each token which row it belongs to: int32 [1, tokens]."""
    rows = [torch.full((n,), row, dtype=torch.int32) for row, n in enumerate(line["row_lengths"])]
    return line | {"seq_idx": torch.cat(rows)[None]}


def shard(
    ids: list[torch.Tensor],
    labels: list[torch.Tensor],
    token: int,
    part: Shard,
    multiple: int = 1,
) -> dict[str, Any]:
    """One rank's shard of a pack, which is padded so that all shards are of one length.

    Their length is a multiple of `multiple`.

    Labels are shifted before the pack is divided, because the last token of a shard predicts the
    first token of the next one. `cu_seq_lens_*` describe the whole pack.

    Returns:
        int64 [1, tokens / ranks] `input_ids`, `shift_labels`, `position_ids`; the rest as `pack`.
    """
    line = pack(*with_padding(ids, labels, token, part.count * multiple))
    shifted = torch.nn.functional.pad(line.pop("labels")[:, 1:], (0, 1), value=IGNORED)
    line["shift_labels"] = shifted
    for name in ("input_ids", "shift_labels", "position_ids"):
        line[name] = line[name].chunk(part.count, dim=1)[part.index].contiguous()
    return line


def find_targets(line: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The positions of the trained tokens in a micro-batch, and their target ids.

    They are computed on the host, because finding their number on a GPU would force a sync.

    Returns:
        int64 [trained tokens] `positions` in the flattened micro-batch, and `targets`.
    """
    shifted = line.get("shift_labels")
    if shifted is None:
        shifted = torch.nn.functional.pad(line["labels"][:, 1:], (0, 1), value=IGNORED)
    labels = shifted.reshape(-1)
    (positions,) = (labels != IGNORED).nonzero(as_tuple=True)
    return {"positions": positions, "targets": labels[positions]}


def to_device(line: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Copy a micro-batch to a device, without waiting for the copies."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in line.items()
    }
