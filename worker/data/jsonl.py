"""Divides a JSONL data file into chunks for several processes, without loading it whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from jobspec.errors import DataError
from worker.data.encode import ChatRow, parse_row

_CHUNKS = 64
_MIN_BYTES, _MAX_BYTES = 1 << 18, 1 << 23


@dataclass(frozen=True, slots=True)
class FileChunk:
    """Whole lines of the file: `size` bytes from `offset`, starting with line `number`."""

    index: int
    offset: int
    size: int
    number: int

    def rows(self, file: Path) -> Iterator[tuple[int, bytes]]:
        """Each line that is not blank, with its number."""
        with file.open("rb") as source:
            source.seek(self.offset)
            data = source.read(self.size)
        for number, line in enumerate(data.split(b"\n"), self.number):
            if line.strip():
                yield number, line


@dataclass(frozen=True)
class Scan:
    """The chunks of a file, and the identity that shows whether the file has changed."""

    file: Path
    chunks: list[FileChunk]
    rows: int
    identity: tuple[int, int, int]

    @classmethod
    def of(cls, file: Path) -> Scan:
        """Read the file once to find its lines."""
        with file.open("rb") as source:
            identity = _identity(os.fstat(source.fileno()))
            size = min(max(identity[1] // _CHUNKS, _MIN_BYTES), _MAX_BYTES)
            chunks: list[FileChunk] = []
            offset, number, rows = 0, 1, 0
            while lines := source.readlines(size):
                length = sum(map(len, lines))
                chunks.append(FileChunk(len(chunks), offset, length, number))
                offset, number = offset + length, number + len(lines)
                rows += sum(1 for line in lines if line.strip())
        if not rows:
            hint = "each line holds one JSON object"
            raise DataError("has no rows", file=file, place="$.data.path", hint=hint)
        return cls(file, chunks, rows, identity)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Every line that is not blank, with its number."""
        for chunk in self.chunks:
            yield from chunk.rows(self.file)

    def check_unchanged(self) -> None:
        """Raise DataError if the file was modified or replaced since the scan."""
        if _identity(self.file.stat()) != self.identity:
            raise DataError(
                "changed while it was read",
                file=self.file,
                place="$.data.path",
                hint="prepare again once nobody writes to it",
            )


def read_row(file: Path, number: int) -> ChatRow:
    """The row with this line number, counted from 1. Raises DataError if there is none."""
    with file.open("rb") as source:
        line = next(islice(source, number - 1, None), b"") if number > 0 else b""
    if not line.strip():
        raise DataError(f"has no row {number}", file=file, hint="rows are lines, counted from 1")
    return parse_row(line, number, file)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
