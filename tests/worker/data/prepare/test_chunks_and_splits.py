"""The same rows however the file is cut into chunks, and how they are assigned to splits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from jobspec.errors import DataError
from jobspec.records.reports import Passes, RowReport
from jobspec.storage.layout import PreparedPaths, RootPaths
from tests.support.paths import REPOSITORY
from tests.support.prepared import read_split, run_code, sums, user, write_rows
from tests.support.specs import train_spec, write_spec
from tests.support.waiting import until
from worker.data import dataset_cache, split
from worker.data.check_command import count_micro_batches
from worker.data.pipeline import prepare
from worker.rows.jsonl import Scan


def test_chunks_and_processes_change_nothing(root: RootPaths, model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", sums(300, answers=2))
    made = train_spec(model, rows)
    assert len(Scan.of(rows).chunks) == 1
    whole = prepare(made, root)
    tables = [read_split(root, whole, name) for name in ("train", "eval")]
    shutil.rmtree(root.prepared)
    code = (
        "import worker.rows.jsonl as reading\n"
        "reading._MIN_BYTES, reading._CHUNKS = 1000, 10_000\n"
        "from worker.data import check_command\n"
        "check_command.main()"
    )
    asked = ["--check", str(write_spec(tmp_path / "spec.json", made)), "--root", str(root.root)]
    cut = msgspec.json.decode(run_code(code, *asked), type=RowReport)
    assert cut.passes.unpacked == whole.rows_train
    assert cut.longest_micro_batch >= cut.tokens / cut.rows_in
    assert [read_split(root, whole, name) for name in ("train", "eval")] == tables
    expected = RowReport.of(whole, cut.passes, cut.longest_micro_batch)
    assert msgspec.structs.replace(cut, seconds=whole.seconds) == expected


@pytest.mark.parametrize("packing", [False, True])
def test_the_longest_micro_batch_is_of_the_kind_that_will_be_trained(
    packing: bool, root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", sums(30))
    sizes = {"max_length": 256, "global_batch_size": 10, "per_device_train_batch_size": 2}
    made = train_spec(model, rows, data__eval_split_ratio=0.0, train=sizes | {"packing": packing})
    prepared = PreparedPaths(root.root / prepare(made, root).dir)
    longest = max(dataset_cache.read_counts(prepared.train)[0])
    found = count_micro_batches(made, prepared.train)
    # Two rows of some 60 tokens without packing, or the four that fit into 256.
    assert found[0] == Passes(unpacked=15, packed=9)
    low, high = (2 * longest, 256) if packing else (longest, 2 * longest)
    assert low < found[1] <= high


POOL = """
from worker.rows import parallel_map as pool
from jobspec.errors import DataError
def fail(item):
    if item >= 20:
        raise DataError("bad", place=f"row {item}")
    return item
assert list(pool.map_in_order(str, range(50), processes=3)) == [str(i) for i in range(50)]
results = pool.map_in_order(fail, range(50), processes=3)
assert [next(results) for _ in range(20)] == list(range(20))
try:
    next(results)
except DataError as error:
    print(error.place, error.message)
"""


def test_the_pool_keeps_order_and_raises_the_first_error() -> None:
    assert run_code(POOL) == "row 20 bad\n"


def test_the_pool_dies_with_the_process_that_made_it() -> None:
    code = (
        "import os, sys, time\n"
        "from worker.rows import parallel_map as pool\n"
        "def work(item):\n    os.write(1, b'%d\\n' % os.getpid())\n    time.sleep(60 * item)\n"
        "list(pool.map_in_order(work, [1, 1], processes=2))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        children = [int(process.stdout.readline()) for _ in range(2)]
        process.kill()
    until(lambda: not any(is_alive(child) for child in children), 20)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_blank_lines_and_windows_line_ends_are_no_rows(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    lines = [json.dumps(one) for one in sums(3)]
    file = tmp_path / "rows.jsonl"
    file.write_bytes("\r\n".join(["", lines[0], "  ", lines[1], lines[2]]).encode())
    report = prepare(train_spec(model, file, data__eval_split_ratio=0), root)
    assert report.rows_in == 3
    assert [row["row"] for row in read_split(root, report, "train")] == [2, 4, 5]


def test_rows_of_one_prompt_stay_together(root: RootPaths, model: Path, tmp_path: Path) -> None:
    rows = sums(30, answers=4)
    made = train_spec(model, write_rows(tmp_path / "rows.jsonl", rows), data__eval_split_ratio=0.2)
    report = prepare(made, root)
    assert (report.rows_train, report.rows_eval) == (96, 24)
    assert (report.prompts, report.prompts_eval) == (30, 6)
    sides = [
        {rows[row["row"] - 1]["messages"][0]["content"] for row in read_split(root, report, name)}
        for name in ("train", "eval")
    ]
    assert not sides[0] & sides[1]


def test_the_split_is_seeded_and_never_empty_on_either_side() -> None:
    prompts = [bytes([i % 20]) for i in range(100)]
    assert split.choose_held_out(prompts, 0.05, 1) == split.choose_held_out(
        reversed(prompts), 0.05, 1
    )
    assert len({frozenset(split.choose_held_out(prompts, 0.05, seed)) for seed in range(20)}) > 5
    assert split.choose_held_out(prompts, 0, 1) == set()
    assert split.choose_held_out([b"a"] * 9, 0.5, 1) == set()
    assert len(split.choose_held_out([b"a"] * 99 + [b"b"], 0.001, 1)) == 1
    assert len(split.choose_held_out([b"a", b"b"], 0.5, 1)) == 1
    assert len(split.choose_held_out([b"a", b"a", b"b"], 0.9, 1)) == 1
    for seed in range(20):
        held = split.choose_held_out(prompts, 0.25, seed)
        assert sum(prompt in held for prompt in prompts) == 25


def test_some_samples_are_the_same_ones_wherever_they_stand(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = sums(200)
    taken = []
    for name, ordered in (("a", rows), ("b", rows[::-1])):
        file = write_rows(tmp_path / f"{name}.jsonl", ordered)
        report = prepare(train_spec(model, file, data__max_train_samples=19), root)
        assert report.rows_in == 200
        assert report.rows_selected == 20
        assert (report.rows_train, report.rows_eval) == (19, 1)
        picked = [ordered[row["row"] - 1] for row in read_split(root, report, "train")]
        taken.append({json.dumps(row) for row in picked})
    assert taken[0] == taken[1]


def test_one_prompt_alone_is_not_trained_beyond_the_samples_asked_for(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", sums(1, answers=50))
    report = prepare(train_spec(model, rows, data__max_train_samples=19), root)
    assert (report.rows_selected, report.rows_kept) == (20, 19)
    assert (report.rows_train, report.rows_eval, report.prompts) == (19, 0, 1)
    assert len(read_split(root, report, "train")) == 19
    assert report.tokens == report.train.tokens


def test_malformed_rows_are_dropped_and_counted_among_the_selected_ones(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = [*sums(40), {"messages": [user("a")]}]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    report = prepare(train_spec(model, file), root)
    assert (report.rows_in, report.rows_kept, report.dropped) == (41, 40, {"malformed": 1})
    (first,) = report.first_dropped
    assert first.row == 41 and "no final assistant turn" in first.reason
    strict = train_spec(model, file, data__max_dropped_frac=0.0)
    with pytest.raises(DataError, match=r"1 of 41 rows .*no final assistant turn") as caught:
        prepare(strict, root)
    assert caught.value.place == "row 41"
    few = prepare(train_spec(model, file, data__max_train_samples=1), root)
    assert (few.rows_in, few.dropped) == (41, {})
