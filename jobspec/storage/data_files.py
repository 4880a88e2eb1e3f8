"""Data files as lines of UTF-8 JSON, whatever their encoding, compression and line structure.

The first bytes of a file decide how it is read, never its name: a byte-order mark (UTF-8, UTF-16,
UTF-32), gzip, bzip2, xz and zstd are recognized, and so is a JSON array of rows. Tables (Parquet,
Arrow) and directories need packages of the worker and are read there.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import importlib
import io
import json
import lzma
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import msgspec

from jobspec.errors import DataError

_T = TypeVar("_T")
OpenFile = Callable[[Path], BinaryIO]

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
# UTF-32's mark begins with UTF-16's, so it comes first.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# JSON begins with an ASCII character, which tells UTF-16 even without a mark.
_UNMARKED = {
    **{character + b"\x00": "utf-16-le" for character in (b"{", b"[", b" ", b"\n")},
    **{b"\x00" + character: "utf-16-be" for character in (b"{", b"[", b" ", b"\n")},
}
_TABLES = {b"PAR1": "Parquet", b"ARROW1": "Arrow", b"\xff\xff\xff\xff": "Arrow"}
_OTHERS = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
}
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow")
_PACKED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
# What `datasets.save_to_disk` writes beside its Arrow files.
_STATE, _SPLITS = "state.json", "dataset_dict.json"
_HEAD_BYTES = 512
_HINT = "data.path names a JSONL file: one JSON object on each line"


@dataclass(frozen=True, slots=True)
class FileFormat:
    """How the rows of a data file are stored.

    Attributes:
        table: `Parquet` or `Arrow`; such a file is no text, and the other fields do not apply.
        mark_bytes: the length of its byte-order mark.
    """

    compression: str | None = None
    encoding: str = "utf-8"
    mark_bytes: int = 0
    is_array: bool = False
    table: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the file's own lines are the rows."""
        return self == FileFormat()

    def __str__(self) -> str:
        if self.table is not None:
            return self.table
        encoding = self.encoding.upper().removesuffix("-LE").removesuffix("-BE")
        mark = " with a byte-order mark" if self.mark_bytes and encoding == "UTF-8" else ""
        kind = "JSON array" if self.is_array else "JSON lines"
        return ", ".join(filter(None, (self.compression, f"{encoding}{mark}", kind)))


def list_files(path: Path) -> list[Path]:
    """The files with rows: the path itself, or those of a directory, sorted by name.

    In a directory that `datasets.save_to_disk` wrote these are the files that its state names. In
    any other they are those with a suffix of a data file (`.jsonl`, `.json.gz`, `.parquet`, …).

    Raises:
        DataError: the directory has no such file, has several splits, or lacks a file of its state.
    """
    if not path.is_dir():
        return [path]
    if (path / _SPLITS).is_file():
        splits = _read(path / _SPLITS, _Splits).splits
        hint = f"name one of them: {', '.join(str(path / split) for split in splits)}"
        message = f"is a saved dataset with {len(splits)} splits"
        raise DataError(message, file=path, place="$.data.path", hint=hint)
    if (path / _STATE).is_file():
        files = _saved_files(path)
    else:
        files = sorted(file for file in path.rglob("*") if _is_data_file(file, path))
    if not files:
        hint = f"its files must end in one of {', '.join(_SUFFIXES)}"
        raise DataError("has no data files", file=path, place="$.data.path", hint=hint)
    return files


class _Splits(msgspec.Struct):
    splits: list[str]


class _SavedFile(msgspec.Struct):
    filename: str


class _State(msgspec.Struct):
    """What is read of the state of a saved dataset."""

    files: list[_SavedFile] = msgspec.field(name="_data_files")
    # Early versions of `datasets` kept a selection of rows beside the rows.
    indices: list[_SavedFile] | None = msgspec.field(name="_indices_data_files", default=None)


def _saved_files(path: Path) -> list[Path]:
    """The files of a saved dataset, in the order of its rows."""
    state = _read(path / _STATE, _State)
    if state.indices:
        raise DataError(
            "is a saved dataset with a selection of rows, which is not applied",
            file=path,
            place="$.data.path",
            hint="load it, call `flatten_indices()`, and save it again",
        )
    files = [path / Path(one.filename).name for one in state.files]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"lacks {len(missing)} of its {len(files)} files: {', '.join(missing[:3])}",
            file=path,
            place="$.data.path",
            hint="copy the directory again",
        )
    return files


def _read(file: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        message, hint = f"can't be read: {error}", "copy the directory again"
        raise DataError(message, file=file, place="$.data.path", hint=hint) from error


def digest(path: Path) -> tuple[str, int]:
    """The SHA-256 of a data file or directory, in hex, and its size in bytes.

    A directory's is computed from the names and the contents of its data files.

    Raises:
        OSError: it can't be read.
        DataError: a directory has no data files.
    """
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    whole, size = hashlib.sha256(), 0
    for file in list_files(path):
        sha256, file_size = digest(file)
        whole.update(f"{sha256}  {file.relative_to(path)}\n".encode())
        size += file_size
    return whole.hexdigest(), size


def open_zstd(path: Path) -> BinaryIO:
    """Open a zstd file with the standard library's module (Python 3.14) or `zstandard`."""
    for name in ("compression.zstd", "zstandard"):
        try:
            module = cast("Any", importlib.import_module(name))
        except ImportError:
            continue
        return module.open(path, "rb")
    raise DataError(
        "is compressed with zstd, which needs the package `zstandard`",
        file=path,
        place="$.data.path",
        hint="pip install zstandard, or decompress the file: zstd -d FILE",
    )


def is_plain(path: Path) -> bool:
    """Whether the lines of a file are its rows, in UTF-8; nothing is decompressed to find out.

    Raises:
        DataError: it is of a kind that has no rows.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return _match(_COMPRESSED, head) is None and detect(path).is_plain


def detect(path: Path, zstd: OpenFile = open_zstd) -> FileFormat:
    """How a file's rows are stored, from its first bytes.

    Raises:
        DataError: it is damaged, or of a kind that has no rows.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    compression = _match(_COMPRESSED, head)
    if compression is not None:
        with _decompressed(path, compression, zstd) as source:
            head = source.read(_HEAD_BYTES)
    other = "a tar archive" if head[257:262] == b"ustar" else _match(_OTHERS, head)
    table = _match(_TABLES, head)
    if table is not None and compression is not None:
        other = f"a {table} file inside {compression}"
    if other is not None:
        raise DataError(f"is {other}", file=path, place="$.data.path", hint=f"extract it; {_HINT}")
    if table is not None:
        return FileFormat(table=table)
    mark = next((mark for mark in _MARKS if head.startswith(mark)), b"")
    encoding = _MARKS.get(mark) or _match(_UNMARKED, head) or "utf-8"
    first = head[len(mark) :].decode(encoding, errors="ignore").lstrip()[:1]
    return FileFormat(compression, encoding, len(mark), is_array=first == "[")


def read_lines(path: Path, zstd: OpenFile = open_zstd) -> Iterator[tuple[int, bytes]]:
    """Each row of a file of text as one line of UTF-8 JSON, with its number, counted from 1.

    Blank lines are counted and left out.

    Raises:
        DataError: it is damaged, or not in the encoding that it begins in.
    """
    kind = detect(path, zstd)
    with _decompressed(path, kind.compression, zstd) as source:
        source.read(kind.mark_bytes)
        if kind.is_array:
            yield from _array_elements(source.read(), kind.encoding, path)
            return
        for number, line in enumerate(_lines(source, kind.encoding, path), 1):
            if line.strip():
                yield number, line


def not_in_encoding(error: UnicodeDecodeError, path: Path, place: str) -> DataError:
    """The error for bytes that are not text in the encoding a file is read in."""
    encoding = error.encoding.upper()
    wrong = error.object[error.start]
    hint = f"convert it: iconv -f LATIN1 -t UTF-8 {path.name}, if it is Latin-1"
    return DataError(
        f"byte 0x{wrong:02x} at position {error.start} is not {encoding}: {error.reason}",
        file=path,
        place=place,
        hint=hint,
    )


def _is_data_file(file: Path, directory: Path) -> bool:
    if any(part.startswith(".") for part in file.relative_to(directory).parts):
        return False
    name = file.with_suffix("") if file.suffix in _PACKED_SUFFIXES else file
    return name.suffix in _SUFFIXES and file.is_file()


def _match(table: dict[bytes, str], head: bytes) -> str | None:
    return next((name for magic, name in table.items() if head.startswith(magic)), None)


@contextmanager
def _decompressed(path: Path, compression: str | None, zstd: OpenFile) -> Generator[BinaryIO]:
    openers: dict[str | None, Callable[[Path], Any]] = {
        None: lambda path: path.open("rb"),
        "gzip": gzip.open,
        "bzip2": bz2.open,
        "xz": lzma.open,
        "zstd": zstd,
    }
    try:
        with openers[compression](path) as source:
            yield source
    except DataError:
        raise
    except (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError) as error:
        if compression is None:
            raise
        raise DataError(
            f"its {compression} data is damaged or ends early: {error}",
            file=path,
            place="$.data.path",
            hint="copy the file again, and compare its size with the original's",
        ) from error


def _lines(source: BinaryIO, encoding: str, path: Path) -> Iterator[bytes]:
    if encoding == "utf-8":
        yield from source
        return
    number = 0
    try:
        # Only "\n" ends a line: other separators may stand inside a JSON text.
        with io.TextIOWrapper(source, encoding, newline="\n") as text:
            for number, line in enumerate(text, 1):  # noqa: B007 - read where decoding fails
                yield line.encode()
    except UnicodeDecodeError as error:
        raise not_in_encoding(error, path, f"after row {number}") from error


def _array_elements(data: bytes, encoding: str, path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        text = data if encoding == "utf-8" else data.decode(encoding).encode()
        elements = msgspec.json.decode(text, type=list[msgspec.Raw])
    except UnicodeDecodeError as error:
        raise not_in_encoding(error, path, "$.data.path") from error
    except msgspec.MsgspecError:
        yield from _slow_elements(data, encoding, path)
        return
    for number, element in enumerate(elements, 1):
        # Between a row's tokens a line end is only white space; inside a text it can't stand.
        yield number, bytes(element).replace(b"\n", b" ").replace(b"\r", b" ")


def _slow_elements(data: bytes, encoding: str, path: Path) -> Iterator[tuple[int, bytes]]:
    """The elements of an array with a fault in it, up to the one that can't be read at all."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise not_in_encoding(error, path, "$.data.path") from error
    decoder = json.JSONDecoder()
    at, number = text.index("[") + 1, 0
    while True:
        at = _skip_space(text, at)
        if text[at : at + 1] == "]":
            return
        number += 1
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"its JSON array can't be read: {error}",
                file=path,
                place=f"row {number}",
                hint="is it still being written? A file of JSON lines has no brackets around it",
            ) from error
        row = text[at:end].replace("\n", " ").replace("\r", " ")
        yield number, row.encode(errors="surrogatepass")
        at = _skip_space(text, end)
        at += text[at : at + 1] == ","


def _skip_space(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at
