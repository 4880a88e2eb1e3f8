"""Enqueue: a spec becomes a job, once, whoever and however many try.

The job's directory is staged whole and renamed to `jobs/<job>/`, which only one can do; then its
ticket is renamed into `queue/pending/`. Whoever finds the ticket still lying there finishes that
second step, and makes the same name, since the name follows from enqueue.json.
"""

from __future__ import annotations

import getpass
import os
import re

from jobspec import fs, record, temps
from jobspec.entries import read_record
from jobspec.errors import JobspecError
from jobspec.paths import MAX_PRIORITY, JobPaths, RootPaths, Ticket
from jobspec.record import Enqueued, State
from jobspec.spec import JobSpec, canonical, job_id

_STAMP = re.compile(r"[0-9]{8}T[0-9]{12}Z")
_UNKNOWN_STAMP = "19700101T000000000000Z"


def publish(root: RootPaths, spec: JobSpec, priority: int) -> tuple[str, bool]:
    """Make the job and its pending entry.

    Returns:
        The job's id, and whether it was there already.

    Raises:
        DiskFull: nothing is left behind.
    """
    check_priority(priority)
    data = canonical(spec)
    job = job_id(spec.name, data)
    already = fs.exists(root.job(job).dir) or not _place(root, job, data, priority)
    if move_ticket(root, root.job(job)) or not already:
        # In any order: a claim makes the directory of an entry without one, `fsck` the entry of a
        # directory without one.
        fs.sync_dirs(root.jobs, root.state(State.PENDING))
    return job, already


def move_ticket(root: RootPaths, job: JobPaths) -> bool:
    """Finish a publication: the ticket out of the job's directory into `pending/`, unsynced."""
    if not fs.exists(job.ticket):
        return False
    target = root.state(State.PENDING) / ticket_of(job).name
    return fs.move_once(job.ticket, target)


def ticket_of(job: JobPaths, attempt: int = 1) -> Ticket:
    """The entry's name as enqueue.json has it; the same for everybody, even where that is gone."""
    facts = read_record(job.enqueue, Enqueued) or Enqueued()
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


def _place(root: RootPaths, job: str, data: bytes, priority: int) -> bool:
    facts = Enqueued(
        enqueued_at=record.utc_now(), priority=priority, user=_user(), host=temps.host()
    )
    files = {
        "spec.json": (data, 0o444),
        "enqueue.json": (record.encode(facts), 0o644),
        "ticket.json": (data, 0o644),
    }
    # Beside `jobs/`, not in it: there every name is a job's.
    with fs.staged_dir(root.root / job, files) as staged:
        return fs.place_dir(staged, root.job(job).dir)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for this user
        return str(os.getuid())
