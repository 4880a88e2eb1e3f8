"""Transitions requested by users: cancel, retry, prioritize.

Each finds the job's entry and renames it. If another process moves the entry first, it tries again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from jobspec.errors import DiskFull, JobNotFound, TransitionRefused
from jobspec.queue.entries import Entry, next_entry, scan
from jobspec.queue.job import Job
from jobspec.queue.reaper import mark_revoked
from jobspec.records import base as records
from jobspec.records.attempt import Retry
from jobspec.records.base import State
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths

_MAX_TRIES = 20


def cancel(root: RootPaths, job: str) -> Job:
    """Cancel a pending or running job. Raises TransitionRefused."""

    def cancelled(entry: Entry) -> Entry:
        return Entry(State.CANCELLED, entry.ticket)

    return _move(root, job, (State.PENDING, State.RUNNING), "cancelled", cancelled)


def retry(root: RootPaths, job: str) -> Job:
    """Make a failed or cancelled job pending again. Raises TransitionRefused."""

    def marked(entry: Entry) -> Entry:
        # Written before the move, so that a pending job always has its new retry budgets.
        marker = root.job(job).attempt(entry.ticket.attempt).retry
        fs.make_dir(marker.parent)
        mark = Retry(at=records.utc_now(), state=entry.state)
        fs.publish(marker, records.encode(mark))
        return next_entry(entry, State.PENDING)

    return _move(root, job, (State.FAILED, State.CANCELLED), "retried", marked)


def prioritize(root: RootPaths, job: str, priority: int) -> Job:
    """Change the priority of a pending job. Raises TransitionRefused."""

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
    wanted = None
    for _ in range(_MAX_TRIES):
        entry = scan(root).get(job)
        if entry is None:
            raise JobNotFound(f"no job `{job}`", hint="`jobspec status` lists them")
        if entry.ticket == wanted:  # the move's reply was lost, and a worker has claimed the job
            return Job(entry, root)
        if entry.state not in sources:
            raise TransitionRefused(
                f"`{job}` is {entry.state}: it can't be {verb}",
                hint=f"only {' and '.join(sources)} jobs can",
            )
        target = target_of(entry)
        wanted = target.ticket if target.state is State.PENDING else None
        if fs.move_once(entry.path(root), target.path(root)):
            fs.sync_dir(root.state(target.state))
            if entry.state is State.RUNNING:
                with contextlib.suppress(OSError, DiskFull):
                    mark_revoked(root, entry)
            return Job(target, root)
    raise TransitionRefused(f"`{job}` keeps changing its state", hint="try again")
