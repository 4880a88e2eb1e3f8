"""A spec's data as JSONL that several processes can read: the file itself, or a temporary copy.

Lines of UTF-8 JSON are read where they are. Anything else (compressed files, other encodings, JSON
arrays, tables, directories) is copied once, in a process of its own: reading tables starts threads,
and a process with threads must not fork.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Self

from jobspec.errors import DataError, JobspecError
from jobspec.storage import data_files, fs, tempfiles
from worker.process.rank_launcher import die_with_parent
from worker.rows import tables

_ROW = re.compile(r"row ([0-9]+)")


class RowSource:
    """The rows of a data file or directory. Close it, or use it in `with`, to delete the copy.

    Args:
        data: the file or directory, as the spec names it.
        scratch: a directory for the copy; created if it is needed.
    """

    def __init__(self, data: Path, scratch: Path) -> None:
        self.data = data
        self._scratch = scratch
        self._copy: Path | None = None
        self._identity: list[tuple[int, int, int]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._copy is not None:
            self._copy.unlink(missing_ok=True)

    @cached_property
    def jsonl(self) -> Path:
        """A file whose lines are the rows, in UTF-8. Raises DataError if the data has none."""
        self._identity = _identity(self.data)
        if not self.data.is_dir() and data_files.is_plain(self.data):
            return self.data
        fs.make_dir(self._scratch)
        self._copy = tempfiles.beside(self._scratch / "rows.jsonl")
        with fs.disk_full(self._scratch):
            _in_own_process(_write_copy, self.data, self._copy)
        return self._copy

    def check_unchanged(self) -> None:
        """Raise DataError if the data was modified or replaced since it was first read."""
        if self._identity != _identity(self.data):
            raise DataError(
                "changed while it was read",
                file=self.data,
                place="$.data.path",
                hint="prepare again once nobody writes to it",
            )


def read_lines(data: Path) -> Iterator[tuple[int, bytes]]:
    """Each row of the data as a line of UTF-8 JSON. Rows of a directory are counted on."""
    before = 0
    for file in data_files.list_files(data):
        number = 0
        for number, line in _read_file(file):
            yield before + number, line
        before += number


def _read_file(file: Path) -> Iterator[tuple[int, bytes]]:
    if data_files.detect(file, tables.open_zstd).table is None:
        return data_files.read_lines(file, tables.open_zstd)
    return tables.read_lines(file)


@contextmanager
def rows_named_by_file(data: Path) -> Generator[None]:
    """Let an error about a row of a directory name the file, and the row by its number there."""
    try:
        yield
    except JobspecError as error:
        row = _ROW.fullmatch(error.place or "")
        if row is None or error.file != str(data) or not data.is_dir():
            raise
        file, number = locate(data, int(row[1]))
        kind, place = type(error), f"row {number}"
        raise kind(error.message, hint=error.hint, file=file, place=place) from error


def locate(data: Path, number: int) -> tuple[Path, int]:
    """The file that holds a row of the data, and the row's number in that file."""
    for file in data_files.list_files(data):
        count = max((found for found, _ in _read_file(file)), default=0)
        if number <= count:
            return file, number
        number -= count
    return data, number


def read_line(data: Path, number: int) -> bytes:
    """The row with this number, counted from 1. Raises DataError if there is none."""
    if number > 0:
        for found, line in read_lines(data):
            if found == number:
                return line
            if found > number:
                break
    raise DataError(f"has no row {number}", file=data, hint="rows are lines, counted from 1")


def describe(data: Path) -> str:
    """How the data is stored, as `jobspec preview` shows it."""
    files = data_files.list_files(data)
    kinds = sorted({str(data_files.detect(file, tables.open_zstd)) for file in islice(files, 100)})
    return "; ".join(kinds) + (f" in {len(files)} files" if data.is_dir() else "")


def _write_copy(data: Path, target: Path) -> None:
    """Write the rows as lines, each with the number it has in the data: gaps are blank lines."""
    written = 0
    with target.open("wb") as out:
        for number, line in read_lines(data):
            out.write(b"\n" * (number - written - 1))
            out.write(line if line.endswith(b"\n") else line + b"\n")
            written = number


def _in_own_process(function: Callable[..., None], *arguments: Path) -> None:
    context = multiprocessing.get_context("fork")
    initargs = (signal.SIGKILL, os.getpid())
    with ProcessPoolExecutor(1, context, initializer=die_with_parent, initargs=initargs) as pool:
        pool.submit(function, *arguments).result()


def _identity(data: Path) -> list[tuple[int, int, int]]:
    found = [file.stat() for file in data_files.list_files(data)]
    return [(status.st_ino, status.st_size, status.st_mtime_ns) for status in found]
