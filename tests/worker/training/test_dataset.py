"""What of prepared rows is read when training begins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch")

from worker.data import dataset_cache
from worker.data.dataset_cache import IGNORED
from worker.data.encode import Encoded
from worker.data.split import Dealt
from worker.training.dataset import Rows

TOKENS = 2000


def in_memory(file: Path) -> int:
    """Bytes of a file's mappings that this process has touched: proc_pid_smaps(5)."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found += 1024 * int(value.split()[0]) if inside and name == "Rss" else 0
        elif "-" in line.split()[0]:
            inside = line.endswith(str(file))
    return found


def test_a_start_reads_counts_and_no_row(tmp_path: Path) -> None:
    """Of half a gigabyte of labels every rank read all: 16 MB stand for it here."""
    encoded = [(n, Encoded("", list(range(TOKENS)), n % 7, False, 0)) for n in range(1, 1001)]
    pieces = [tmp_path / "0.arrow", tmp_path / "1.arrow"]
    dataset_cache.write_piece(pieces[0], encoded[:600])
    dataset_cache.write_piece(pieces[1], encoded[600:])
    held_out = {3, 700}
    dealt = Dealt(train=set(range(1, 1001)) - held_out, held_out=held_out)
    place = tmp_path / "rows"
    place.mkdir()
    dataset_cache.write_splits(place, pieces, dealt, "key")
    file = place / "train" / dataset_cache.DATA
    assert file.stat().st_size > 15_000_000
    os.sync()

    rows = Rows.open(place / "train")

    assert in_memory(file) < 1_000_000
    assert len(rows) == 998
    assert set(rows.lengths) == {TOKENS}
    labels = [row["labels"] for row in rows.data.select(range(20))]
    assert rows.trained[:20] == [sum(x != IGNORED for x in row[1:]) for row in labels]
    assert Rows.open(place / "eval").trained == [TOKENS - 3, TOKENS - 1]  # the first never is
    assert (place / "train" / dataset_cache.COUNTS).stat().st_size < 8 * 998 + 200
