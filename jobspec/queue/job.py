"""A job as a reader sees it: its entry, and what its files say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jobspec.errors import JobspecError
from jobspec.queue.entries import Entry, matches_id, read_bytes, read_record
from jobspec.records import base as records
from jobspec.records.attempt import End
from jobspec.records.base import Reason, State
from jobspec.records.queue_files import Enqueued
from jobspec.spec import parsing, schema
from jobspec.storage import fs
from jobspec.storage.layout import JobPaths, RootPaths


@dataclass(frozen=True)
class Job:
    """A job as it was when its entry was read. `spec`, `user`, `end` and `reason` read files on
    first use.

    Attributes:
        already: set by `Queue.enqueue` if the job existed before.
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
    def user(self) -> str | None:
        """Who enqueued the job; None if that is not known."""
        enqueued = read_record(self.paths.enqueue, Enqueued)
        return (enqueued.user or None) if enqueued is not None else None

    @cached_property
    def spec(self) -> schema.JobSpec:
        """The spec, checked against the job's id. Raises SpecError or JobspecError."""
        for path in (self.paths.spec, self.entry.path(self.root)):
            data = read_bytes(path)
            if data is not None and matches_id(self.id, data):
                return parsing.decode(data, file=path)
        raise JobspecError(
            f"the spec of `{self.id}` is damaged or missing",
            file=self.paths.spec,
            hint="enqueue the spec file again, or run `jobspec fsck`",
        )

    @cached_property
    def end(self) -> End | None:
        """The `end.json` of the last attempt that ended; None if it has none."""
        number = self.attempt if self.state in records.FINAL else self.attempt - 1
        return read_record(self.paths.attempt(number).end, End) if number else None

    @cached_property
    def reason(self) -> Reason | None:
        """Why the job is in its state; None if it was not attempted since it was last retried."""
        if self.state in (State.SUCCEEDED, State.CANCELLED):
            return Reason(self.state.value)
        if self.state is not State.FAILED:
            return None if self.attempt == 1 else self._requeue_reason()
        last = self.end.reason if self.end is not None else Reason.LOST
        return Reason.NO_PROGRESS if last in (Reason.PREEMPTED, Reason.WALLTIME) else last

    def _requeue_reason(self) -> Reason | None:
        if fs.exists(self.paths.attempt(self.attempt - 1).retry):
            return None
        return self.end.reason if self.end is not None else Reason.LOST
