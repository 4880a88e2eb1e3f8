"""The data files of a spec as one sequence of rows, counted on from file to file.

A row's *position* is its number among the lines of all files, from 1. With one file it is the line
number. Errors and reports name the file and the number of the row in it.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from jobspec.errors import DataError, data_changed
from jobspec.spec.schema import DataSpec
from jobspec.spec.sources import errors_at, group_place, list_sources
from jobspec.storage import data_files
from worker.rows.jsonl import Scan
from worker.rows.row import RowParser
from worker.rows.row_source import RowSource, rows_named_by_file


@dataclass(frozen=True, slots=True)
class DataSource:
    """A data file and how its rows are parsed.

    Attributes:
        place: the JSON path of the group that names it.
        name: its name in a mixture; empty for `data.path`.
    """

    file: Path
    parser: RowParser
    place: str = "$.data"
    name: str = ""


def sources_of(data: DataSpec) -> tuple[DataSource, ...]:
    """The data files of a spec. Nothing is read yet."""
    ignored = frozenset(data.ignore_fields)
    found: list[DataSource] = []
    for index, source in enumerate(list_sources(data)):
        file = Path(source.path).expanduser().absolute()
        parser = RowParser(file, source.format or "auto", ignored)
        found.append(DataSource(file, parser, group_place(data, index), source.name or ""))
    return tuple(found)


def digest(data: DataSpec) -> str:
    """The SHA-256 of all data: of the file, or of the sources' hashes and how they are read.

    Raises:
        DataError: a file is missing, empty, or differs from the hash in the spec.
    """
    hashes: list[str] = []
    for index, source in enumerate(list_sources(data)):
        group = group_place(data, index)
        with errors_at(f"{group}.path"):
            sha256 = _hash(Path(source.path).expanduser().absolute(), source.sha256, group)
        hashes.append(sha256 if data.path is not None else f"{sha256}  {source.format}\n")
    if data.path is not None:
        return hashes[0]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _hash(path: Path, expected: str | None, group: str) -> str:
    place = f"{group}.path"
    try:
        actual, size = data_files.digest(path)
    except OSError as error:
        raise DataError(
            f"can't be read: {error.strerror}",
            file=path,
            place=place,
            hint="it must name a JSONL file that every worker can read",
        ) from error
    if size == 0:
        raise DataError("is empty", file=path, place=place, hint="is it still being written?")
    if expected is not None and actual != expected:
        raise DataError(
            data_changed(actual, expected),
            file=path,
            place=f"{group}.sha256",
            hint="restore the old data, or enqueue a new spec for the new data",
        )
    return actual


class DataSources:
    """The rows of all data files.

    Use it in `with`: that deletes temporary copies, and lets errors about rows of a directory name
    the file in it.

    Args:
        sources: in the order of the spec.
        scratch: a directory for copies; created if one is needed.
    """

    def __init__(self, sources: Sequence[DataSource], scratch: Path) -> None:
        self.sources = sources
        self._files = [RowSource(source.file, scratch) for source in sources]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        for source, file in zip(self.sources, self._files, strict=True):
            self._stack.enter_context(rows_named_by_file(source.file))
            self._stack.enter_context(file)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @property
    def parsers(self) -> tuple[RowParser, ...]:
        """The parser of each source, by the `source` of a chunk."""
        return tuple(source.parser for source in self.sources)

    @cached_property
    def scans(self) -> list[Scan]:
        """The scan of each source. Raises DataError if one has no rows."""
        scans: list[Scan] = []
        for source, file in zip(self.sources, self._files, strict=True):
            with errors_at(f"{source.place}.path"):
                scans.append(Scan.of(file.jsonl, source.file))
        return scans

    @cached_property
    def scan(self) -> Scan:
        """The chunks of all sources."""
        return Scan.join(self.scans)

    @cached_property
    def starts(self) -> list[int]:
        """For each source, the number of lines of those before it."""
        return [0, *itertools.accumulate(scan.line_count for scan in self.scans)][:-1]

    def index_of(self, position: int) -> int:
        """The index of the source that has the row at a position."""
        return bisect.bisect_left(self.starts, position) - 1

    def locate(self, position: int) -> tuple[DataSource, int]:
        """The source that has the row at a position, and the row's number in its file."""
        index = self.index_of(position)
        return self.sources[index], position - self.starts[index]

    def check_unchanged(self) -> None:
        """Raise DataError if a file was modified or replaced since it was first read."""
        for source, file in zip(self.sources, self._files, strict=True):
            with errors_at(f"{source.place}.path"):
                file.check_unchanged()
