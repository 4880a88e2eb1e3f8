"""A JSONL data file in chunks that many processes can take, without holding it in memory."""

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
    """Whole lines of the file: `size` bytes from `offset`, the first being line `number`."""

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
    """Where a file's chunks begin, and what says that it is still the same file."""

    file: Path
    chunks: list[FileChunk]
    rows: int
    identity: tuple[int, int, int]

    @classmethod
    def of(cls, file: Path) -> Scan:
        """Read a file once, for its line ends."""
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
        """Raises DataError where the file was written to or replaced since it was scanned."""
        if _identity(self.file.stat()) != self.identity:
            raise DataError(
                "changed while it was read",
                file=self.file,
                place="$.data.path",
                hint="prepare again once nobody writes to it",
            )


def read_row(file: Path, number: int) -> ChatRow:
    """One row by its line number, counted from 1. Raises DataError where there is none."""
    with file.open("rb") as source:
        line = next(islice(source, number - 1, None), b"") if number > 0 else b""
    if not line.strip():
        raise DataError(f"has no row {number}", file=file, hint="rows are lines, counted from 1")
    return parse_row(line, number, file)


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns
