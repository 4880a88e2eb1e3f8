"""Enqueue: a spec becomes a job, once, whoever and however many try.

The job's directory is staged whole and renamed to `jobs/<job>/`, which only one can do; then its
ticket is renamed into `queue/pending/`. Whoever finds the ticket still lying there finishes that
second step, and makes the same name, since the name follows from enqueue.json.
"""

from __future__ import annotations

import getpass
import os
import re
from functools import cache
from pathlib import Path

from jobspec.errors import JobspecError
from jobspec.queue.entries import read_record
from jobspec.records import base as records
from jobspec.records.base import State
from jobspec.records.queue_files import Enqueued
from jobspec.spec.identity import canonical, job_id
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs, tempfiles
from jobspec.storage.layout import MAX_PRIORITY, JobPaths, RootPaths, Ticket

_STAMP = re.compile(r"[0-9]{8}T[0-9]{12}Z")
_UNKNOWN_STAMP = "19700101T000000000000Z"


def publish(root: RootPaths, spec: JobSpec, priority: int) -> tuple[str, Ticket | None]:
    """Make the job and its pending entry.

    Returns:
        The job's id, and its entry's name; None if the job was there already.

    Raises:
        DiskFull: nothing is left behind.
    """
    check_priority(priority)
    data = canonical(spec)
    job = root.job(job_id(spec.name, data))
    ticket = None if fs.exists(job.dir) else _place(root, job, data, priority)
    if ticket is not None:
        fs.move_once(job.ticket, _pending(root, ticket))
    elif not move_ticket(root, job):
        return job.job, None
    # In any order: a claim makes the directory of an entry without one, `fsck` the entry of a
    # directory without one.
    fs.sync_dirs(root.jobs, root.state(State.PENDING))
    return job.job, ticket


def move_ticket(root: RootPaths, job: JobPaths) -> bool:
    """Finish a publication: the ticket out of the job's directory into `pending/`, unsynced."""
    return fs.exists(job.ticket) and fs.move_once(job.ticket, _pending(root, ticket_of(job)))


def ticket_of(job: JobPaths, attempt: int = 1) -> Ticket:
    """The entry's name as enqueue.json has it; the same for everybody, even where that is gone."""
    return _named(job, read_record(job.enqueue, Enqueued) or Enqueued(), attempt)


def _named(job: JobPaths, facts: Enqueued, attempt: int = 1) -> Ticket:
    stamp = re.sub(r"[-:.]", "", facts.enqueued_at)
    priority = min(max(facts.priority, 0), MAX_PRIORITY)
    stamp = stamp if _STAMP.fullmatch(stamp) else _UNKNOWN_STAMP
    return Ticket(MAX_PRIORITY - priority, stamp, job.job, attempt)


def check_priority(priority: int) -> None:
    """Raises JobspecError for a priority that no name can hold."""
    if not 0 <= priority <= MAX_PRIORITY:
        raise JobspecError(
            f"priority `{priority}` is out of range", hint=f"give 0 to {MAX_PRIORITY}; 50 is usual"
        )


def _pending(root: RootPaths, ticket: Ticket) -> Path:
    return root.state(State.PENDING) / ticket.name


def _place(root: RootPaths, job: JobPaths, data: bytes, priority: int) -> Ticket | None:
    """Make the job's directory; its entry's name, or None where another was quicker."""
    facts = Enqueued(
        enqueued_at=records.utc_now(), priority=priority, user=_user(), host=tempfiles.host()
    )
    files = {
        job.spec.name: (data, 0o444),
        job.enqueue.name: (records.encode(facts), 0o644),
        job.ticket.name: (data, 0o644),
    }
    # Beside `jobs/`, not in it: there every name is a job's.
    with fs.staged_dir(root.root / job.job, files) as staged:
        return _named(job, facts) if fs.place_dir(staged, job.dir) else None


@cache  # the user database may be a file, or a server
def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for this user
        return str(os.getuid())
