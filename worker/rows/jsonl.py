"""Divides a JSONL file into chunks for several processes, without loading it whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobspec.errors import DataError

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
    """The chunks of a file and the number of its rows."""

    file: Path
    chunks: list[FileChunk]
    rows: int

    @classmethod
    def of(cls, file: Path, data: Path | None = None) -> Scan:
        """Read a file once to find its lines. `data` is named in errors instead of it."""
        with file.open("rb") as source:
            size = min(max(file.stat().st_size // _CHUNKS, _MIN_BYTES), _MAX_BYTES)
            chunks: list[FileChunk] = []
            offset, number, rows = 0, 1, 0
            while lines := source.readlines(size):
                length = sum(map(len, lines))
                chunks.append(FileChunk(len(chunks), offset, length, number))
                offset, number = offset + length, number + len(lines)
                rows += sum(1 for line in lines if line.strip())
        if not rows:
            hint = "each line holds one JSON object"
            raise DataError("has no rows", file=data or file, place="$.data.path", hint=hint)
        return cls(file, chunks, rows)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Every line that is not blank, with its number."""
        for chunk in self.chunks:
            yield from chunk.rows(self.file)
