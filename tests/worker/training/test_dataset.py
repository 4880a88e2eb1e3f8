"""What of prepared rows is read when training begins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch")

from jobspec.storage.layout import PreparedPaths
from worker.data import arrow_files
from worker.data.dataset_cache import IGNORED
from worker.data.encode import EncodedRow
from worker.data.split import Split
from worker.rows.jsonl import FileChunk
from worker.training.dataset import Rows, Schedule

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
    encoded = [(n, EncodedRow("", list(range(TOKENS)), n % 7, False, 0)) for n in range(1, 1001)]
    prepared = PreparedPaths(tmp_path)
    arrow_files.write_chunk(prepared.chunk(0), encoded[:600])
    arrow_files.write_chunk(prepared.chunk(1), encoded[600:])
    held_out = {3, 700}
    train = dict.fromkeys(set(range(1, 1001)) - held_out, 1)
    split = Split(train=train, held_out=held_out)
    chunks = [FileChunk(tmp_path / "rows", index, 0, 0, 1) for index in range(2)]
    arrow_files.write_splits(prepared, chunks, split, "key", mixed=False)
    file = prepared.train.rows
    assert file.stat().st_size > 15_000_000
    os.sync()

    rows = Rows.open(prepared.train)

    assert in_memory(file) < 1_000_000
    assert len(rows) == 998
    assert set(rows.lengths) == {TOKENS}
    labels = [row["labels"] for row in rows.data.select(range(20))]
    assert rows.trained[:20] == [sum(x != IGNORED for x in row[1:]) for row in labels]
    assert Rows.open(prepared.eval).trained == [TOKENS - 3, TOKENS - 1]  # the first never is
    assert prepared.train.counts.stat().st_size < 8 * 998 + 200


@pytest.mark.parametrize(("padded", "tokens"), [(False, 32), (True, 48)])
def test_padding_to_a_multiple_counts_among_a_micro_batchs_tokens(
    padded: bool, tokens: int
) -> None:
    rows = Rows(None, [5, 9, 10], [1, 1, 1])
    schedule = Schedule(rows, 0, 3, 3, padded=padded, multiple=16)
    (micro,) = schedule.step([0, 1, 2]).micros
    assert schedule.tokens_of(micro) == tokens
