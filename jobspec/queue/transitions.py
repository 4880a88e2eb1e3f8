"""The transitions that people ask for: cancel, retry, prioritize.

Each looks the job up and renames its entry; where somebody moves it first, it looks again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from jobspec.errors import DiskFull, JobNotFound, TransitionRefused
from jobspec.queue.entries import Entry, Job, following, scan
from jobspec.queue.reaper import mark_taken
from jobspec.records import base as records
from jobspec.records.attempt import Retry
from jobspec.records.base import State
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths

_MOST_TRIES = 20


def cancel(root: RootPaths, job: str) -> Job:
    """End a pending or running job. Raises TransitionRefused."""

    def cancelled(entry: Entry) -> Entry:
        return Entry(State.CANCELLED, entry.ticket)

    return _move(root, job, (State.PENDING, State.RUNNING), "cancelled", cancelled)


def retry(root: RootPaths, job: str) -> Job:
    """Put a failed or cancelled job back. Raises TransitionRefused."""

    def marked(entry: Entry) -> Entry:
        # Before the move: a job that is pending again must have its budgets anew.
        marker = root.job(job).attempt(entry.ticket.attempt).retry
        fs.make_dir(marker.parent)
        fs.publish(marker, records.encode(Retry(at=records.utc_now())))
        return following(entry, State.PENDING)

    return _move(root, job, (State.FAILED, State.CANCELLED), "retried", marked)


def prioritize(root: RootPaths, job: str, priority: int) -> Job:
    """Give a pending job another priority. Raises TransitionRefused."""

    def ranked(entry: Entry) -> Entry:
        return Entry(State.PENDING, entry.ticket.with_priority(priority))

    return _move(root, job, (State.PENDING,), "prioritized", ranked)


def _move(
    root: RootPaths,
    job: str,
    sources: tuple[State, ...],
    verb: str,
    target_of: Callable[[Entry], Entry],
) -> Job:
    for _ in range(_MOST_TRIES):
        entry = scan(root).get(job)
        if entry is None:
            raise JobNotFound(f"no job `{job}`", hint="`jobspec status` lists them")
        if entry.state not in sources:
            raise TransitionRefused(
                f"`{job}` is {entry.state}: it can't be {verb}",
                hint=f"only {' and '.join(sources)} jobs can",
            )
        target = target_of(entry)
        if fs.move_once(entry.path(root), target.path(root)):
            fs.sync_dir(root.state(target.state))
            if entry.state is State.RUNNING:
                with contextlib.suppress(OSError, DiskFull):
                    mark_taken(root, entry)
            return Job(target, root)
    raise TransitionRefused(f"`{job}` keeps moving", hint="try again")
