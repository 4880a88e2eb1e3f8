"""Turns a spec into a job, exactly once, even if several processes enqueue it at the same time.

The job's directory is written under a temporary name and renamed to `jobs/<job>/`, which only one
process can do. Its ticket is then renamed into `queue/pending/`. A process that finds the ticket
still in the job's directory finishes that second step. Every process computes the same name for the
ticket, because it follows from enqueue.json.
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jobspec.errors import JobspecError
from jobspec.queue.entries import read_record
from jobspec.records import base as records
from jobspec.records.base import State
from jobspec.records.queue_files import Enqueued
from jobspec.spec.identity import canonical, job_id
from jobspec.spec.schema import JobSpec
from jobspec.storage import descriptors, fs, tempfiles
from jobspec.storage.layout import MAX_PRIORITY, JobPaths, RootPaths, Ticket

_STAMP = re.compile(r"[0-9]{8}T[0-9]{12}Z")
_UNKNOWN_STAMP = "19700101T000000000000Z"


def publish(
    root: RootPaths, spec: JobSpec, priority: int, has_entry: Callable[[str], bool]
) -> tuple[str, Ticket | None]:
    """Create the job and its pending entry.

    Args:
        has_entry: whether a job has an entry; asked only about a job without a directory.

    Returns:
        The job's id and the name of its entry; None instead of the name if the job existed.

    Raises:
        DiskFull: no files are left behind.
    """
    check_priority(priority)
    data = canonical(spec)
    job = root.job(job_id(spec.name, data))
    _add_user(root.users / quote(current_user(), safe=""), root.several_users)
    known = fs.exists(job.dir) or has_entry(job.job)
    ticket = None if known else _create_job(root, job, data, priority)
    if ticket is not None:
        fs.move_once(job.ticket, _pending(root, ticket))
    elif not move_ticket(root, job):
        return job.job, None
    # The order does not matter after a crash: a claim restores a missing job directory, `fsck` a
    # missing entry.
    fs.sync_dirs(root.jobs, root.state(State.PENDING))
    return job.job, ticket


def move_ticket(root: RootPaths, job: JobPaths) -> bool:
    """Move the ticket from the job's directory to `pending/`, without syncing the directories."""
    return fs.exists(job.ticket) and fs.move_once(job.ticket, _pending(root, ticket_of(job)))


def ticket_of(job: JobPaths, attempt: int = 1) -> Ticket:
    """Make the entry's name from enqueue.json. Without that file it is still the same for all."""
    return _ticket(job, read_record(job.enqueue, Enqueued) or Enqueued(), attempt)


def _ticket(job: JobPaths, enqueued: Enqueued, attempt: int = 1) -> Ticket:
    stamp = re.sub(r"[-:.]", "", enqueued.enqueued_at)
    priority = min(max(enqueued.priority, 0), MAX_PRIORITY)
    stamp = stamp if _STAMP.fullmatch(stamp) else _UNKNOWN_STAMP
    return Ticket(MAX_PRIORITY - priority, stamp, job.job, attempt)


def check_priority(priority: int) -> None:
    """Raise JobspecError if the priority does not fit into an entry's name."""
    if not 0 <= priority <= MAX_PRIORITY:
        raise JobspecError(
            f"priority `{priority}` is out of range",
            hint=f"give 0 to {MAX_PRIORITY}; the default is 50",
        )


def _pending(root: RootPaths, ticket: Ticket) -> Path:
    return root.state(State.PENDING) / ticket.name


def _create_job(root: RootPaths, job: JobPaths, data: bytes, priority: int) -> Ticket | None:
    """Create the job's directory. Returns its entry's name; None if another process was first."""
    enqueued = Enqueued(
        enqueued_at=records.utc_now(), priority=priority, user=current_user(), host=tempfiles.host()
    )
    files = {
        job.spec.name: (data, 0o444),
        job.enqueue.name: (records.encode(enqueued), 0o644),
        job.ticket.name: (data, descriptors.file_mode()),
    }
    # Staged outside `jobs/`, where every name is the id of a job.
    with fs.staged_dir(root.root / job.job, files) as staging:
        return _ticket(job, enqueued) if fs.place_dir(staging, job.dir) else None


@cache
def _add_user(path: Path, several: Path) -> None:
    """Let workers see whether there are several users: only then do they ask whose a job is.

    RACE: of two first users each lists after adding itself, so one of them sees both.
    """
    fs.make_dir(path.parent)
    fs.touch(path)
    if len(fs.list_names(path.parent)) > 1:
        fs.touch(several)


@cache  # the lookup may ask a server
def current_user() -> str:
    """The name of this process's user, as `enqueue.json` records it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for this user
        return str(os.getuid())
