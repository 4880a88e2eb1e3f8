"""What `jobspec preview` shows of a data file as a whole. Rows are counted from 1."""

from __future__ import annotations

import msgspec

from jobspec.records.base import Record
from jobspec.records.reports import Overlap, RowReport


class HistogramBin(Record, frozen=True, kw_only=True):
    """Number of rows whose length is from `least` to `most`, both included."""

    least: int
    most: int
    rows: int


class NearDuplicate(Record, frozen=True, kw_only=True):
    """A row that is similar to an earlier one.

    Attributes:
        similarity: the estimated share of their runs of five words that both have.
    """

    row: int
    earlier: int
    similarity: float


class Duplicates(Record, frozen=True, kw_only=True):
    """Rows that repeat an earlier one.

    Attributes:
        exact_rows: with the same messages and tools as an earlier row.
        exact_examples: the first pairs of such a row and the earlier one.
        near_rows: other rows that are similar to an earlier one; null where numpy is missing.
        compared: the number of rows, from the first, that were searched for similar ones.
    """

    exact_rows: int = 0
    exact_examples: tuple[tuple[int, int], ...] = ()
    near_rows: int | None = None
    near_examples: tuple[NearDuplicate, ...] = ()
    compared: int = 0


class DataOverview(Record, frozen=True, kw_only=True):
    """Counts, lengths, duplicates and benchmark questions of a data file.

    Attributes:
        sources: the names of a mixture's files and the number of lines before each; rows are
            counted on from file to file.
        conversations: rows that are well-formed; `malformed` are not.
        rows: the report of the row check; null where the rows can't be tokenized.
        not_tokenized: why not.
        max_length: of the spec.
        unit: of `lengths`: `tokens` of the rows that are used, else `characters`.
        trained: the trained tokens of the rows that are used.
        refused: why `enqueue` will refuse this data.
    """

    sources: tuple[tuple[str, int], ...] = ()
    conversations: int
    malformed: int
    rows: RowReport | None = None
    not_tokenized: str | None = None
    max_length: int = 0
    unit: str = "characters"
    lengths: tuple[HistogramBin, ...] = ()
    trained: tuple[HistogramBin, ...] = ()
    duplicates: Duplicates = Duplicates()
    overlap: dict[str, Overlap | None] = msgspec.field(default_factory=dict[str, Overlap | None])
    refused: str | None = None
