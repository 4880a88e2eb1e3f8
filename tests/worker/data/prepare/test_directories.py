"""An error about a row of a directory names the file, and the row by its number in that file."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobspec.storage.layout import RootPaths
from tests.support.prepared import run_code, run_prepare, sums, user
from tests.support.specs import train_spec, write_spec

# In a process of its own, since pyarrow starts threads.
WRITE = r"""
import bz2, gzip, json, lzma, sys
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq

def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)

def zstd(rows, path):
    with pa.CompressedOutputStream(str(path), "zstd") as sink:
        sink.write(lines(rows).encode())

def arrow(rows, path):
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)

WRITERS = {
    "a.jsonl": lambda rows, path: path.write_text(lines(rows)),
    "b.jsonl": lambda rows, path: path.write_text(lines(rows), "utf-8-sig"),
    "c.json": lambda rows, path: path.write_text(json.dumps(rows, indent=1)),
    "d.jsonl.gz": lambda rows, path: path.write_bytes(gzip.compress(lines(rows).encode())),
    "e.jsonl": lambda rows, path: path.write_text("\n\n" + lines(rows) + "\n\n", "utf-16"),
    "f.parquet": lambda rows, path: pq.write_table(pa.Table.from_pylist(rows), path),
    "g.arrow": arrow,
    "h.jsonl.zst": zstd,
    "i.json.bz2": lambda rows, path: path.write_bytes(bz2.compress(json.dumps(rows).encode())),
    "j.jsonl.xz": lambda rows, path: path.write_bytes(lzma.compress(lines(rows).encode())),
}
below, good, faulty, unrendered = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
for kind, rows in (("good", good), ("faulty", faulty), ("unrendered", unrendered)):
    (below / kind).mkdir()
    for name, write in WRITERS.items():
        write(rows, below / kind / name)
import datasets
datasets.Dataset.from_list(good + faulty).save_to_disk(str(below / "saved"), num_shards=2)
"""
GOOD = sums(3)
FAULTY = [GOOD[0], {"messages": [user("a"), user("b")]}, GOOD[2]]
UNRENDERED = [GOOD[0], {**GOOD[1], "system": "Be brief."}, GOOD[2]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories of files in every format, whose rows are good, or the second one is not."""
    below = tmp_path_factory.mktemp("files")
    run_code(WRITE, below, *map(json.dumps, (GOOD, FAULTY, UNRENDERED)))
    return below


def refusal(model: Path, root: RootPaths, data: Path, **fields: Any) -> tuple[Path, str, str]:
    """Where the row check finds an error: file and place, and its hint."""
    spec = write_spec(root.root.parent / "spec.json", train_spec(model, data, **fields))
    done = run_prepare("--check", spec, "--root", root.root)
    assert done.returncode == 3, done.stderr
    error = json.loads(done.stdout)["error"]
    return Path(error["file"]), error["place"], error["hint"]


# A file, and the number that its second row has in it.
PLACES = {
    **dict.fromkeys(("a.jsonl", "b.jsonl", "c.json", "d.jsonl.gz", "f.parquet", "g.arrow"), 2),
    **dict.fromkeys(("h.jsonl.zst", "i.json.bz2", "j.jsonl.xz"), 2),
    "e.jsonl": 4,  # after two blank lines
}


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "faulty") for name in PLACES), ("h.jsonl.zst", "unrendered")]
)
def test_a_row_of_one_of_its_files(
    model: Path, root: RootPaths, tmp_path: Path, files: Path, name: str, kind: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(files / "good", data)
    shutil.copyfile(files / kind / name, data / name)
    file, place, hint = refusal(model, root, data, data__max_dropped_frac=0.0)
    assert (file, place) == (data / name, f"row {PLACES[name]}")
    if name == "f.parquet" and kind == "faulty":
        assert "--row 19`" in hint, "`preview` counts the rows of all files: 15, two blank lines, 2"


def test_a_row_of_a_saved_dataset(model: Path, root: RootPaths, files: Path) -> None:
    data = files / "saved"  # its fifth row is faulty, and each of its two files has three
    file, place, _ = refusal(model, root, data, data__max_dropped_frac=0.0)
    assert (file, place) == (data / "data-00001-of-00002.arrow", "row 2")


def test_a_row_that_is_no_json(model: Path, root: RootPaths, tmp_path: Path, files: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(files / "good", data)
    (data / "d.jsonl.gz").write_bytes(gzip.compress(b'{"messages": []}\n{"score": NaN}\n'))
    assert refusal(model, root, data)[:2] == (data / "d.jsonl.gz", "row 2")
