"""`bundle.json`: what a bundle holds, what was left out, and what was replaced."""

from __future__ import annotations

import msgspec

from jobspec.monitoring.cost import Cost
from jobspec.records.base import Record

FORMAT = 1


class HashedFile(Record, frozen=True, kw_only=True):
    """A file by its path in the bundle, its bytes and its SHA-256."""

    path: str
    size: int
    sha256: str


class UsedData(Record, frozen=True, kw_only=True):
    """A data file of the spec; `path` is null if the bundle does not include it."""

    name: str
    sha256: str | None = None
    path: str | None = None


class AboutBundle(Record, frozen=True, kw_only=True):
    """The facts that no other file of a bundle has.

    Attributes:
        attempt: the attempt whose results these are.
        version: of the jobspec that wrote the bundle.
        weights: the files of the trained model, included or not.
        data: the data files of the spec.
        prepared: the SHA-256 of the tokenized rows and labels, by split, where the root still had
            them.
        log_bytes: how much of the end of each log is included, at most.
        replaced: for each file, how many texts each placeholder replaced.
        omitted: what a reader might expect and does not find, with the reason.
        cost: of all attempts, by the bundle's files; null where an older version wrote it.
    """

    format: int = FORMAT
    job: str
    attempt: int
    state: str
    version: str = ""
    weights: tuple[HashedFile, ...] = ()
    weights_included: bool = False
    data: tuple[UsedData, ...] = ()
    prepared: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    log_bytes: int = 0
    replaced: dict[str, dict[str, int]] = msgspec.field(default_factory=dict[str, dict[str, int]])
    omitted: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    cost: Cost | None = None
