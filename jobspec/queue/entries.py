"""Queue entries as a reader sees them: which job is in which state, read from names alone.

Within one attempt an entry moves forward only: pending, running, then one of the final states;
every move back begins a new attempt. So of two sightings of one job the later one can be told by
its name, and a reader needs no lock to be right about a queue in motion.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jobspec.errors import JobspecError, RootError
from jobspec.records import base as records
from jobspec.records.attempt import End
from jobspec.records.base import Reason, State
from jobspec.spec import identity, parsing, schema
from jobspec.storage import fs
from jobspec.storage.layout import JobPaths, RootPaths, Ticket, parse_entry

_FORWARD = {State.PENDING: 0, State.RUNNING: 1}
_MOST_SCANS = 10


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in one state's directory. `worker` is set in `running/` alone."""

    state: State
    ticket: Ticket
    worker: str | None = None

    @property
    def name(self) -> str:
        return self.ticket.name if self.worker is None else self.ticket.claimed_by(self.worker)

    @property
    def order(self) -> tuple[int, str, str]:
        """Sorts jobs as claims take them: by priority, then by enqueueing."""
        return self.ticket.rank, self.ticket.enqueued, self.ticket.job

    @property
    def age(self) -> tuple[int, int]:
        """Orders the sightings of one job in time: by attempt, then by how far it has come."""
        return self.ticket.attempt, _FORWARD.get(self.state, 2)

    @property
    def enqueued_at(self) -> str:
        """UTC, ISO 8601."""
        t = self.ticket.enqueued
        return f"{t[:4]}-{t[4:6]}-{t[6:8]}T{t[9:11]}:{t[11:13]}:{t[13:15]}.{t[15:21]}Z"

    def path(self, root: RootPaths) -> Path:
        return root.state(self.state) / self.name


@dataclass(frozen=True)
class Job:
    """A job as it was when somebody looked. `spec` and `reason` read the disk when asked for.

    `already` is set by `Queue.enqueue`: the job was there before.
    """

    entry: Entry
    root: RootPaths
    already: bool = False

    @property
    def id(self) -> str:
        return self.entry.ticket.job

    @property
    def state(self) -> State:
        return self.entry.state

    @property
    def attempt(self) -> int:
        return self.entry.ticket.attempt

    @property
    def priority(self) -> int:
        return self.entry.ticket.priority

    @property
    def worker(self) -> str | None:
        return self.entry.worker

    @property
    def enqueued_at(self) -> str:
        """UTC, ISO 8601."""
        return self.entry.enqueued_at

    @property
    def paths(self) -> JobPaths:
        return self.root.job(self.id)

    @cached_property
    def spec(self) -> schema.JobSpec:
        """The spec, checked against the job's id. Raises SpecError or JobspecError."""
        for path in (self.paths.spec, self.entry.path(self.root)):
            data = read_bytes(path)
            if data is not None and answers_to(self.id, data):
                return parsing.decode(data, file=path)
        raise JobspecError(
            f"the spec of `{self.id}` is damaged or gone",
            file=self.paths.spec,
            hint="enqueue the spec file again, or run `jobspec fsck`",
        )

    @cached_property
    def end(self) -> End | None:
        """Why its last ended attempt ended; None where it left no word."""
        number = self.attempt if self.state in records.FINAL else self.attempt - 1
        return read_record(self.paths.attempt(number).end, End) if number else None

    @cached_property
    def reason(self) -> Reason | None:
        """Why it is where it is; None for a job that nothing has happened to yet."""
        if self.state in (State.SUCCEEDED, State.CANCELLED):
            return Reason(self.state.value)
        if self.state is not State.FAILED:
            return None if self.attempt == 1 else self._why_again()
        found = self.end.reason if self.end is not None else Reason.LOST
        stalled = found in (Reason.PREEMPTED, Reason.WALLTIME)
        return Reason.NO_PROGRESS if stalled else found

    def _why_again(self) -> Reason | None:
        if fs.exists(self.paths.attempt(self.attempt - 1).retry):
            return None
        return self.end.reason if self.end is not None else Reason.LOST


def following(entry: Entry, state: State) -> Entry:
    """What a running or ended entry becomes in `state`; back in pending, the next attempt."""
    ticket = entry.ticket
    if state is State.PENDING:
        ticket = ticket.for_attempt(ticket.attempt + 1)
    return Entry(state, ticket)


def answers_to(job: str, data: bytes) -> bool:
    """Whether these are the bytes that the job's id was made from."""
    return job.endswith(f"-{identity.digest(data)}")


def read_bytes(path: Path, *, owned: bool = False) -> bytes | None:
    """A file's bytes; None where there is no such file. Other errors are raised."""
    try:
        return fs.read(path, owned=owned)
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_record(path: Path, kind: type[records.R]) -> records.R | None:
    """The record at `path`; None where it is missing or torn. Other errors are raised."""
    data = read_bytes(path)
    return None if data is None else records.parse(data, kind)


def in_state(root: RootPaths, state: State) -> list[Entry]:
    """The entries in one state's directory, in claim order. Names that are not ours are skipped."""
    return [
        entry
        for name in sorted(list_state(root, state))
        if (entry := parse(state, name)) is not None
    ]


@contextlib.contextmanager
def uncollected() -> Generator[None]:
    """Without the cyclic garbage collector: entries have no cycles, and 100,000 of them made it
    look at everything again and again, for half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def scan(root: RootPaths) -> dict[str, Entry]:
    """Every job's entry: scanned until two scans agree on the jobs, the latest sighting winning.

    RACE: a job that moves can be seen in no directory, or in two. Directories are read in the order
    in which jobs move, so that only a job moving back can be missed; the next scan finds it.
    """
    parsed: dict[tuple[State, str], Entry | None] = {}
    seen = _scan_once(root, parsed)
    for _ in range(_MOST_SCANS):
        found = _scan_once(root, parsed)
        agreed = found.keys() == seen.keys()
        if found != seen:
            for entry in found.values():
                _keep_latest(seen, entry)
        if agreed:
            break
    return seen


def _scan_once(root: RootPaths, parsed: dict[tuple[State, str], Entry | None]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for state in State:
        for name in list_state(root, state):
            key = (state, name)
            if key not in parsed:
                parsed[key] = parse(state, name)
            entry = parsed[key]
            if entry is not None:
                _keep_latest(found, entry)
    return found


def _keep_latest(entries: dict[str, Entry], entry: Entry) -> None:
    other = entries.setdefault(entry.ticket.job, entry)
    if other is not entry and entry.age >= other.age:
        entries[entry.ticket.job] = entry


def list_state(root: RootPaths, state: State) -> list[str]:
    """The names in one state's directory, ours or not. Raises RootError if it is gone."""
    try:
        return fs.list_dir(root.state(state))
    except FileNotFoundError as error:
        raise RootError(
            "the queue's directory is gone", file=root.state(state), hint="run `jobspec fsck`"
        ) from error


def parse(state: State, name: str) -> Entry | None:
    """The entry that a name stands for in this state's directory; None if it is not ours."""
    parsed = parse_entry(name)
    if parsed is None or (parsed[1] is not None) != (state is State.RUNNING):
        return None
    return Entry(state, *parsed)
