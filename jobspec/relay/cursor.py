"""Which row is which line of a run: decided once, and on disk before anything is sent.

A run's history on the server is a list of lines. Line n is always row n of the cursor's assignment.
So a later relay continues at the number of lines that the server has, and sends the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import field

from jobspec.queue.entries import read_record
from jobspec.records.base import Record, encode
from jobspec.relay.tracked_run import HistoryRow
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths


class SentRows(Record, frozen=True, kw_only=True):
    """What was sent for one run.

    Attributes:
        segments: (attempt, first seq, rows) of the assigned rows, in order.
        confirmed: the lines that the server had when it was last asked.
        clean: no client has the run open, so no more lines will arrive by themselves.
        digest: the digest that arrived with the summary.
        superseded: generations whose runs have yet to be marked as superseded.
        gone: the run was deleted on the server.
    """

    generation: int = 1
    segments: tuple[tuple[int, int, int], ...] = ()
    confirmed: int = 0
    clean: bool = True
    digest: str = field(default="", name="told")
    superseded: tuple[int, ...] = ()
    gone: bool = False

    @property
    def assigned(self) -> int:
        return sum(rows for _, _, rows in self.segments)

    def fits(self, rows: Sequence[HistoryRow]) -> bool:
        """Whether `rows` begin with the assigned rows; if not, a later attempt replaced some."""
        position = 0
        for attempt, first, count in self.segments:
            mine = [row.identity for row in rows[position : position + count]]
            if mine != [(attempt, first + n) for n in range(count)]:
                return False
            position += count
        return True

    def assign(self, rows: Sequence[HistoryRow]) -> SentRows:
        """A copy with all of `rows` assigned; the first of them already are."""
        segments = list(self.segments)
        for row in rows[self.assigned :]:
            last = segments[-1] if segments else None
            if last is not None and row.identity == (last[0], last[1] + last[2]):
                segments[-1] = (*last[:2], last[2] + 1)
            else:
                segments.append((row.attempt, row.seq, 1))
        return self.changed(segments=tuple(segments))

    def restarted(self) -> SentRows:
        """An empty run of the next generation."""
        mine = (self.generation,) if self.assigned and not self.gone else ()
        return SentRows(generation=self.generation + 1, superseded=self.superseded + mine)

    def changed(self, **fields: Any) -> SentRows:
        return msgspec.structs.replace(self, **fields)


class Cursor(Record, frozen=True, kw_only=True):
    """A job's runs. `state` and `attempt` are set once everything of an ended job was sent."""

    job: str
    state: str = ""
    attempt: int = 0
    runs: dict[str, SentRows] = field(default_factory=dict[str, SentRows])


class Cursors:
    """The cursors of one target, one file per job."""

    def __init__(self, root: RootPaths, target: str) -> None:
        self.dir = root.relay_cursors(target)
        fs.make_dir(self.dir)

    def load(self, job: str) -> Cursor:
        """The job's cursor; a new one if there is none, or only a damaged one."""
        return read_record(self._path(job), Cursor) or Cursor(job=job)

    def save(self, cursor: Cursor) -> None:
        """Write it to disk, durably. Raises DiskFull, OSError."""
        fs.publish(self._path(cursor.job), encode(cursor))

    def _path(self, job: str) -> Path:
        return self.dir / f"{job}.json"


def target(base_url: str, entity: str | None, project: str) -> str:
    """A directory name for a server, entity and project: each has cursors of its own."""
    whole = f"{base_url} {entity} {project}"
    return hashlib.sha256(whole.encode()).hexdigest()[:12]
