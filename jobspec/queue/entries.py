"""Queue entries: which job is in which state, read from file names alone.

Within one attempt an entry only moves forward: pending, running, then one of the final states.
Every move back to pending starts a new attempt. The name alone therefore shows which of two
sightings of a job is the later one, and readers need no lock while jobs move.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from jobspec.errors import RootError
from jobspec.records import base as records
from jobspec.records.base import State
from jobspec.spec import identity
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths, Ticket, parse_entry

_FORWARD = {State.PENDING: 0, State.RUNNING: 1}
_MAX_SCANS = 10


@dataclass(frozen=True, slots=True)
class Entry:
    """One file name in the directory of one state. `worker` is set only in `running/`."""

    state: State
    ticket: Ticket
    worker: str | None = None

    @property
    def name(self) -> str:
        return self.ticket.name if self.worker is None else self.ticket.claimed_by(self.worker)

    @property
    def order(self) -> tuple[int, str, str]:
        """The sort key of the claim order: priority, then time of enqueueing."""
        return self.ticket.rank, self.ticket.enqueued, self.ticket.job

    @property
    def recency(self) -> tuple[int, int]:
        """The sort key of one job's sightings in time: attempt, then pending, running, final."""
        return self.ticket.attempt, _FORWARD.get(self.state, 2)

    @property
    def enqueued_at(self) -> str:
        """UTC, ISO 8601."""
        t = self.ticket.enqueued
        return f"{t[:4]}-{t[4:6]}-{t[6:8]}T{t[9:11]}:{t[11:13]}:{t[13:15]}.{t[15:21]}Z"

    def path(self, root: RootPaths) -> Path:
        return root.state(self.state) / self.name


def next_entry(entry: Entry, state: State) -> Entry:
    """The entry that a running or ended one becomes in `state`; pending starts a new attempt."""
    ticket = entry.ticket
    if state is State.PENDING:
        ticket = ticket.for_attempt(ticket.attempt + 1)
    return Entry(state, ticket)


def matches_id(job: str, data: bytes) -> bool:
    """Whether the job's id was made from these bytes."""
    return job.endswith(f"-{identity.digest(data)}")


def read_bytes(path: Path, *, owned: bool = False) -> bytes | None:
    """Read a file. Returns None if it does not exist; other errors are raised."""
    try:
        return fs.read(path, owned=owned)
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_record(path: Path, kind: type[records.R]) -> records.R | None:
    """Read a record. Returns None if it is missing or torn; other errors are raised."""
    data = read_bytes(path)
    return None if data is None else records.parse(data, kind)


def list_entries(root: RootPaths, state: State) -> list[Entry]:
    """List the entries of one state in claim order. Names that are no entries are skipped."""
    return [
        entry
        for name in sorted(list_state(root, state))
        if (entry := parse(state, name)) is not None
    ]


@contextlib.contextmanager
def garbage_collection_paused() -> Generator[None]:
    """Pause the cyclic garbage collector while many entries are made.

    Entries have no cycles, and with 100,000 of them the collector took half of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def scan(root: RootPaths) -> dict[str, Entry]:
    """Find every job's entry. Scans until two scans list the same jobs; the latest sighting wins.

    RACE: a job that moves during a scan can be seen in no directory, or in two. Directories are
    read in the order in which jobs move, so only a job that moves back can be missed, and the next
    scan finds it.
    """
    parsed: dict[tuple[State, str], Entry | None] = {}
    seen = _scan_once(root, parsed)
    for _ in range(_MAX_SCANS):
        rescan = _scan_once(root, parsed)
        agreed = rescan.keys() == seen.keys()
        if rescan != seen:
            for entry in rescan.values():
                _keep_latest(seen, entry)
        if agreed:
            break
    return seen


def _scan_once(root: RootPaths, parsed: dict[tuple[State, str], Entry | None]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for state in State:
        for name in list_state(root, state):
            key = (state, name)
            if key not in parsed:
                parsed[key] = parse(state, name)
            entry = parsed[key]
            if entry is not None:
                _keep_latest(entries, entry)
    return entries


def _keep_latest(entries: dict[str, Entry], entry: Entry) -> None:
    other = entries.setdefault(entry.ticket.job, entry)
    later = (entry.recency, entry.ticket.enqueued) >= (other.recency, other.ticket.enqueued)
    if other is not entry and later:
        entries[entry.ticket.job] = entry


def list_state(root: RootPaths, state: State) -> list[str]:
    """List every name in the directory of one state. Raises RootError if it does not exist."""
    try:
        return fs.list_dir(root.state(state))
    except FileNotFoundError as error:
        raise RootError(
            "a directory of the queue is missing", file=root.state(state), hint="run `jobspec fsck`"
        ) from error


def parse(state: State, name: str) -> Entry | None:
    """The entry that a name in the directory of `state` stands for; None if it is no entry."""
    parsed = parse_entry(name)
    if parsed is None or (parsed[1] is not None) != (state is State.RUNNING):
        return None
    return Entry(state, *parsed)
