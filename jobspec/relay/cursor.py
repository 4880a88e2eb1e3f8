"""Which row is which line of a run: decided once, on disk before anything is sent.

A run's history on the server is a list of lines. Line n of it is row n of the cursor's assignment
for ever, so that whoever comes next sends from the server's own count on, and sends the same.
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
from jobspec.relay.wandb_run import Row
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths


class Sent(Record, frozen=True, kw_only=True):
    """What one run was given.

    `segments` are (attempt, first seq, rows): the assignment, in order. `confirmed` is the
    server's own count when last seen. `clean` means that nobody has it open: what the server counts
    is all that will come. `told` is the digest that arrived with the summary. Runs of generations
    in `superseded` have still to be marked so. `gone`: deleted on the server.
    """

    generation: int = 1
    segments: tuple[tuple[int, int, int], ...] = ()
    confirmed: int = 0
    clean: bool = True
    told: str = ""
    superseded: tuple[int, ...] = ()
    gone: bool = False

    @property
    def assigned(self) -> int:
        return sum(rows for _, _, rows in self.segments)

    def fits(self, rows: Sequence[Row]) -> bool:
        """Whether what was assigned is how `rows` begin; else rows were superseded since."""
        place = 0
        for attempt, first, count in self.segments:
            mine = [row.identity for row in rows[place : place + count]]
            if mine != [(attempt, first + n) for n in range(count)]:
                return False
            place += count
        return True

    def assign(self, rows: Sequence[Row]) -> Sent:
        """The same with all of `rows` assigned, of which the first are."""
        segments = list(self.segments)
        for row in rows[self.assigned :]:
            last = segments[-1] if segments else None
            if last is not None and row.identity == (last[0], last[1] + last[2]):
                segments[-1] = (*last[:2], last[2] + 1)
            else:
                segments.append((row.attempt, row.seq, 1))
        return self.changed(segments=tuple(segments))

    def anew(self) -> Sent:
        """A run of the next generation, with nothing in it."""
        mine = (self.generation,) if self.assigned and not self.gone else ()
        return Sent(generation=self.generation + 1, superseded=self.superseded + mine)

    def changed(self, **fields: Any) -> Sent:
        return msgspec.structs.replace(self, **fields)


class Cursor(Record, frozen=True, kw_only=True):
    """A job's runs. `state` and `attempt` are set once an ended job's runs were told all."""

    job: str
    state: str = ""
    attempt: int = 0
    runs: dict[str, Sent] = field(default_factory=dict[str, Sent])


class Cursors:
    """The cursors of one target, a file a job."""

    def __init__(self, root: RootPaths, target: str) -> None:
        self.dir = root.relay_cursors(target)
        fs.make_dir(self.dir)

    def load(self, job: str) -> Cursor:
        """The job's cursor; a fresh one where there is none, or where it is torn."""
        return read_record(self._path(job), Cursor) or Cursor(job=job)

    def save(self, cursor: Cursor) -> None:
        """Publish it: durable when this returns. Raises DiskFull, OSError."""
        fs.publish(self._path(cursor.job), encode(cursor))

    def _path(self, job: str) -> Path:
        return self.dir / f"{job}.json"


def target(base_url: str, entity: str | None, project: str) -> str:
    """A directory's name for where runs go: another server or project has cursors of its own."""
    whole = f"{base_url} {entity} {project}"
    return hashlib.sha256(whole.encode()).hexdigest()[:12]
