"""jobspec.storage.data_files: files are read as what their first bytes say, whatever their name."""

from __future__ import annotations

import bz2
import gzip
import importlib
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobspec.errors import DataError
from jobspec.storage import data_files

ROWS = [{"a": "é 😀 \u2028"}, {"a": "two\nlines"}, {"a": [1, {"b": None}]}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
ARRAY = json.dumps(ROWS, ensure_ascii=False, indent=2)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
MARKED = {"utf-16-be": b"\xfe\xff"}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "gzip of two members": lambda data: gzip.compress(data[:21]) + gzip.compress(data[21:]),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


def read(path: Path) -> list[object]:
    return [json.loads(line) for _, line in data_files.read_lines(path)]


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("text", [LINES, LINES.replace("\n", "\r\n"), ARRAY, LINES.rstrip()])
def test_rows_are_read_in_any_encoding_and_compression(
    text: str, encoding: str, packer: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.txt"
    mark = MARKED.get(encoding, b"")
    path.write_bytes(PACKERS[packer](mark + text.encode(encoding)))
    assert read(path) == ROWS
    plain = packer == "plain" and encoding == "utf-8" and text != ARRAY
    assert data_files.is_plain(path) == plain


def test_blank_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n\n  \n{"a": 2}\n'))
    assert [number for number, _ in data_files.read_lines(path)] == [1, 4]


def test_the_format_is_described(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    for data, said in (
        (LINES.encode(), "UTF-8, JSON lines"),
        (LINES.encode("utf-8-sig"), "UTF-8 with a byte-order mark, JSON lines"),
        (gzip.compress(ARRAY.encode("utf-16")), "gzip, UTF-16, JSON array"),
        (b"PAR1", "Parquet"),
    ):
        path.write_bytes(data)
        assert str(data_files.detect(path)) == said


DAMAGED = {
    "gzip that ends early": (gzip.compress(LINES.encode() * 99)[:-20], "gzip data is damaged"),
    "gzip with a flipped byte": (gzip.compress(LINES.encode())[:-5] + b"12345", "gzip data"),
    "xz that ends early": (lzma.compress(LINES.encode() * 99)[:-20], "xz data is damaged"),
    "UTF-16 of an odd length": (LINES.encode("utf-16")[:-1], "UTF-16-LE"),
    "an array that ends early": (ARRAY[:-9].encode(), "JSON array can't be read"),
    "a zip archive": (b"PK\x03\x04rest", "is a zip archive"),
    "a packed tar archive": (gzip.compress(b"x" * 257 + b"ustar" + b"y" * 99), "a tar archive"),
    "a packed table": (gzip.compress(b"PAR1"), "a Parquet file inside gzip"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_and_unknown_files_are_refused_with_the_cause(case: str, tmp_path: Path) -> None:
    data, cause = DAMAGED[case]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read(path)
    assert cause in caught.value.message
    assert caught.value.file == str(path) and caught.value.place and caught.value.hint


def test_the_elements_of_an_array_with_a_fault_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1},\n {"a": NaN}, {"a": "\\ud83d"}]')
    lines = list(data_files.read_lines(path))
    assert [number for number, _ in lines] == [1, 2, 3]
    assert lines[1][1] == b'{"a": NaN}' and lines[2][1] == b'{"a": "\\ud83d"}'
    path.write_text('[{"a": 1},\n {"a": }]')
    with pytest.raises(DataError) as caught:
        list(data_files.read_lines(path))
    assert caught.value.place == "row 2"


def test_zstd_without_a_package_for_it_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd....")
    for name in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    importlib.invalidate_caches()
    with pytest.raises(DataError, match="`zstandard`") as caught:
        read(path)
    assert "pip install zstandard" in str(caught.value.hint)


def test_a_directory_is_its_data_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.jsonl.gz", "a/c.parquet", "a.json", ".hidden.jsonl", "README.md", ".x/a.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    names = [str(file.relative_to(tmp_path)) for file in data_files.list_files(tmp_path)]
    assert names == ["a/c.parquet", "a.json", "b.jsonl.gz"]
    before = data_files.digest(tmp_path)
    (tmp_path / "README.md").write_text("other")
    assert data_files.digest(tmp_path) == before
    (tmp_path / "a.json").rename(tmp_path / "d.json")
    assert data_files.digest(tmp_path) != before


def test_splits_of_a_saved_dataset_are_named(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match="2 splits") as caught:
        data_files.list_files(tmp_path)
    assert str(tmp_path / "train") in str(caught.value.hint)


STATES = {
    "a file is missing": ('{"_data_files": [{"filename": "b.arrow"}]}', "lacks 1 of its 1 files"),
    "no JSON": ('{"_data_files": ', "can't be read"),
    "another JSON": ("{}", "can't be read"),
    "a selection": (
        '{"_data_files": [{"filename": "a"}], "_indices_data_files": [{"filename": "i"}]}',
        "a selection of rows",
    ),
}


@pytest.mark.parametrize("case", STATES)
def test_a_saved_dataset_that_is_incomplete_is_refused(case: str, tmp_path: Path) -> None:
    state, cause = STATES[case]
    (tmp_path / "a").write_text("{}")
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(DataError, match=cause) as caught:
        data_files.list_files(tmp_path)
    assert caught.value.place == "$.data.path" and caught.value.hint
