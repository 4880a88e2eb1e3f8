"""Divides JSONL files into chunks for several processes, without loading them whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobspec.errors import DataError

_CHUNKS = 64
_MIN_BYTES, _MAX_BYTES = 1 << 18, 1 << 23


@dataclass(frozen=True, slots=True)
class FileChunk:
    """Whole lines of a file: `size` bytes from `offset`, starting with line `number`.

    Attributes:
        index: of the chunk, among the chunks of all files.
        source: index of the file among several.
        before: number of lines of the files before it.
    """

    file: Path
    index: int
    offset: int
    size: int
    number: int
    source: int = 0
    before: int = 0

    def rows(self) -> Iterator[tuple[int, bytes]]:
        """Each line that is not blank, with its number in the file."""
        with self.file.open("rb") as source:
            source.seek(self.offset)
            data = source.read(self.size)
        for number, line in enumerate(data.split(b"\n"), self.number):
            if line.strip():
                yield number, line


@dataclass(frozen=True)
class Scan:
    """The chunks of one or several files, and the numbers of their rows and of all their lines."""

    chunks: list[FileChunk]
    rows: int
    line_count: int

    @classmethod
    def of(cls, file: Path, data: Path | None = None) -> Scan:
        """Read a file once to find its lines. `data` is named in errors instead of it."""
        with file.open("rb") as source:
            size = min(max(file.stat().st_size // _CHUNKS, _MIN_BYTES), _MAX_BYTES)
            chunks: list[FileChunk] = []
            offset, number, rows = 0, 1, 0
            while lines := source.readlines(size):
                length = sum(map(len, lines))
                chunks.append(FileChunk(file, len(chunks), offset, length, number))
                offset, number = offset + length, number + len(lines)
                rows += sum(1 for line in lines if line.strip())
        if not rows:
            hint = "each line holds one JSON object"
            raise DataError("has no rows", file=data or file, place="$.data.path", hint=hint)
        return cls(chunks, rows, number - 1)

    @classmethod
    def join(cls, scans: Sequence[Scan]) -> Scan:
        """The scans of several files as one: their chunks are numbered on."""
        chunks: list[FileChunk] = []
        before = 0
        for source, scan in enumerate(scans):
            for chunk in scan.chunks:
                chunks.append(replace(chunk, index=len(chunks), source=source, before=before))
            before += scan.line_count
        return cls(chunks, sum(scan.rows for scan in scans), before)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Every line that is not blank, with its number; counted on from file to file."""
        for chunk in self.chunks:
            for number, line in chunk.rows():
                yield chunk.before + number, line
