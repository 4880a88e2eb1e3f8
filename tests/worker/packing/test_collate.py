"""Micro-batches whose tokens are a multiple of a number."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from worker.data.dataset_cache import IGNORED  # noqa: E402
from worker.packing.collate import Shard, find_targets, shard  # noqa: E402
from worker.packing.row_layout import RowLayout  # noqa: E402


def rows(*lengths: int) -> list[torch.Tensor]:
    return [torch.arange(1, length + 1) for length in lengths]


@pytest.mark.parametrize(("lengths", "added"), [((5, 7), 4), ((9, 7), 0), ((17,), 15)])
def test_a_pack_is_padded_by_a_row_of_its_own(lengths: tuple[int, ...], added: int) -> None:
    line = RowLayout("packed", "segments", seq_idx=True, multiple=16).collate(
        rows(*lengths), rows(*lengths), 0
    )
    total = sum(lengths)
    assert line["input_ids"].shape == (1, total + added)
    assert line["row_lengths"] == (*lengths, added)[: len(lengths) + (added > 0)]
    assert line["max_length_q"] == max(*lengths, added)
    assert line["cu_seq_lens_q"].tolist()[-1] == total + added
    assert line["input_ids"][0, total:].tolist() == [0] * added
    assert line["position_ids"][0, total:].tolist() == list(range(added))
    assert line["seq_idx"][0, -1] == len(line["row_lengths"]) - 1
    assert line["labels"][0, total:].tolist() == [IGNORED] * added
    assert len(find_targets(line)["targets"]) == total - len(lengths)


@pytest.mark.parametrize(("lengths", "length"), [((5, 7), 16), ((16,), 16), ((17,), 32)])
def test_rows_side_by_side_are_padded_and_masked(lengths: tuple[int, ...], length: int) -> None:
    layout = RowLayout("padded", "sdpa", multiple=16)
    line = layout.collate(rows(*lengths), rows(*lengths), 0)
    assert line["input_ids"].shape == line["labels"].shape == (len(lengths), length)
    if lengths == (16,):
        assert "attention_mask" not in line
        return
    assert line["attention_mask"].sum(dim=1).tolist() == list(lengths)
    trained = (line["labels"] != IGNORED).sum(dim=1)
    assert trained.tolist() == list(lengths)


def test_each_rank_of_a_group_gets_a_multiple() -> None:
    parts = [shard(rows(20, 21), rows(20, 21), 0, Shard(rank, 2), 16) for rank in range(2)]
    assert [part["input_ids"].shape for part in parts] == [(1, 32), (1, 32)]
    assert [part["row_lengths"] for part in parts] == [(20, 21, 23)] * 2
    assert sum(len(find_targets(part)["targets"]) for part in parts) == 20 + 21 - 2
