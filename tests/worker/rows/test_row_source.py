"""worker.rows.row_source: data of any kind as lines that several processes can read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from jobspec.errors import DataError
from tests.support.prepared import run_code, sums
from worker.rows.row_source import RowSource

# Tables are written and described in processes of their own, since pyarrow starts threads.
WRITE = """
import json, sys
rows, out, kind = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
if kind == "saved":
    import datasets
    datasets.Dataset.from_list(rows).save_to_disk(out)
    sys.exit()
import pyarrow as pa
import pyarrow.parquet as pq
if kind == "zstd":
    with pa.CompressedOutputStream(out, "zstd") as sink:
        sink.write("".join(json.dumps(row) + "\\n" for row in rows).encode())
elif kind == "parquet":
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=2)
else:
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(out, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
"""
DESCRIBE = """
import sys
from pathlib import Path
from worker.rows import row_source
print(row_source.describe(Path(sys.argv[1])))
"""
ROWS = sums(5)


def write(rows: Any, path: Path, kind: str) -> Path:
    run_code(WRITE, json.dumps(rows), str(path), kind)
    return path


def rows_of(data: Path, scratch: Path) -> list[Any]:
    with RowSource(data, scratch) as source:
        lines = source.jsonl.read_bytes().splitlines()
        source.check_unchanged()
    assert not scratch.exists() or list(scratch.iterdir()) == []
    return [json.loads(line) for line in lines if line]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "saved", "zstd"])
def test_tables_and_zstd_are_read_by_what_they_are(kind: str, tmp_path: Path) -> None:
    data = write(ROWS, tmp_path / "rows.jsonl", kind)
    assert rows_of(data, tmp_path / "scratch") == ROWS
    described = run_code(DESCRIBE, data)
    expected = {"parquet": "Parquet", "zstd": "zstd, UTF-8, JSON lines"}.get(kind, "Arrow")
    assert expected in described


def test_fields_that_are_null_in_a_table_are_left_out(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "a"}], "score": 1.0},
        {"messages": [{"role": "tool", "content": "b", "name": "f"}], "score": None},
    ]
    data = write(rows, tmp_path / "t", "parquet")
    assert rows_of(data, tmp_path / "scratch") == [rows[0], {"messages": rows[1]["messages"]}]


def test_lines_are_read_where_they_are(tmp_path: Path) -> None:
    data = tmp_path / "rows.gz"
    data.write_text('{"a": 1}\n')
    with RowSource(data, tmp_path / "scratch") as source:
        assert source.jsonl == data
    assert data.exists() and not (tmp_path / "scratch").exists()


def test_rows_keep_the_numbers_they_have_in_the_data(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_bytes(gzip.compress(b'\n{"a": 1}\n\n\n{"a": 2}'))
    with RowSource(data, tmp_path / "scratch") as source:
        assert source.jsonl.read_bytes() == b'\n{"a": 1}\n\n\n{"a": 2}\n'


def test_a_directory_is_read_in_the_order_of_its_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "b.json").write_text(json.dumps(ROWS[3:]))
    lines = "".join(json.dumps(row) + "\n" for row in ROWS[:2])
    (data / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode("utf-16")))
    write(ROWS[2:3], data / "ab.parquet", "parquet")
    assert rows_of(data, tmp_path / "scratch") == ROWS
    assert "in 3 files" in run_code(DESCRIBE, data)


def test_an_error_while_copying_names_the_data_and_no_copy_stays(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_bytes(gzip.compress(b'{"a": 1}\n' * 999)[:-9])
    with pytest.raises(DataError, match="ends early") as caught:
        rows_of(data, tmp_path / "scratch")
    assert caught.value.file == str(data)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_data_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_bytes(gzip.compress(b'{"a": 1}\n'))
    with RowSource(data, tmp_path / "scratch") as source:
        assert source.jsonl.exists()
        data.write_bytes(gzip.compress(b'{"a": 2}\n{"a": 3}\n'))
        with pytest.raises(DataError, match="changed while it was read"):
            source.check_unchanged()
