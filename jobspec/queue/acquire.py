"""Turns a pending entry into one worker's claim.

One rename decides which worker gets the job. Afterwards the claim is completed: the directory of
the attempt is made, which also shows which process won, and the spec is checked against the id.
"""

from __future__ import annotations

from pathlib import Path

from jobspec.errors import DiskFull, RootError
from jobspec.queue.entries import Entry, matches_id, next_entry, read_bytes, read_record
from jobspec.records import base as records
from jobspec.records.attempt import ClaimRecord, End
from jobspec.records.base import Reason, State
from jobspec.storage import fs, tempfiles
from jobspec.storage.layout import RootPaths


def move_to_running(root: RootPaths, entry: Entry, running: Entry) -> bool:
    """Move a pending entry to `running/`. Returns False if another worker moved it first.

    Raises:
        OSError: it is not known whether the entry moved.
    """
    return fs.move_once(entry.path(root), running.path(root))


def complete_claim(
    root: RootPaths, running: Entry, token: str, *, owned: bool, read: bytes | None = None
) -> bytes | None:
    """Complete the claim of an entry that was moved to `running/`; repeat it after an OSError.

    Args:
        root: the root.
        running: the entry, named for this worker.
        token: random, tells this process from others with the same worker id.
        owned: refuse files that another user owns.
        read: the ticket's bytes if they were read and checked just before the move.

    Returns:
        The spec's bytes. None if the claim belongs to another process, or if no copy of the spec
        matches the job's id; then the job ends as `corrupt`.

    Raises:
        DiskFull: if the attempt had not begun, the entry is pending again, unchanged; otherwise
            it is still claimed.
    """
    try:
        if not _open_attempt(root, running, token):
            return None
        data = _restore_spec(root, running, read, owned=owned)
        if data is None:
            _fail_corrupt(root, running)
        return data
    except DiskFull:
        # The attempt has not begun, so the entry keeps its number and uses no retry budget.
        if not fs.exists(root.job(running.ticket.job).attempt(running.ticket.attempt).dir):
            pending = Entry(State.PENDING, running.ticket)
            fs.move_once(running.path(root), pending.path(root))
        raise


def _open_attempt(root: RootPaths, entry: Entry, token: str) -> bool:
    """Make the attempt's directory. Returns False if another process made it.

    RACE: two processes with the same worker id (a requeued Slurm job) can both see "their" claim
    after one rename, because the second one reads its ENOENT as a lost reply. The directory is made
    by one rename as well, and its content names the process that made it.
    """
    paths = root.job(entry.ticket.job).attempt(entry.ticket.attempt)
    record = ClaimRecord(
        worker=entry.worker or "", token=token, host=tempfiles.host(), claimed_at=records.utc_now()
    )
    fs.make_dir(paths.dir.parent)
    files = {paths.CLAIM: (records.encode(record), 0o644)}
    with fs.staged_dir(paths.dir, files, sync=False) as staged:
        if fs.place_dir(staged, paths.dir):
            return True
    published = read_record(paths.claim, ClaimRecord)
    return published is not None and published.token == token


def _restore_spec(
    root: RootPaths, entry: Entry, read: bytes | None, *, owned: bool
) -> bytes | None:
    """Restore the ticket or spec.json from the other. Returns None if neither matches the id."""
    job = root.job(entry.ticket.job)
    ticket = read or _read_good(job.job, entry.path(root), owned=owned)
    spec = _read_good(job.job, job.spec, owned=owned)
    if spec is None and ticket is not None:
        if fs.exists(job.spec):  # perhaps edited by hand, so it is kept under another name
            fs.move_once(job.spec, job.edited_spec)
        fs.publish(job.spec, ticket, mode=0o444)
    if ticket is None and spec is not None:
        fs.rewrite(entry.path(root), spec)
    return ticket or spec


def _read_good(job: str, path: Path, *, owned: bool) -> bytes | None:
    """Read a file. Returns None if it does not match the job's id or belongs to another user."""
    try:
        data = read_bytes(path, owned=owned)
    except RootError:
        return None
    return data if data is not None and matches_id(job, data) else None


def _fail_corrupt(root: RootPaths, entry: Entry) -> None:
    paths = root.job(entry.ticket.job).attempt(entry.ticket.attempt)
    end = End(
        reason=Reason.CORRUPT,
        message="neither the queue entry nor spec.json matches the job's id",
        hint="enqueue the spec file again",
        worker=entry.worker or "",
        host=tempfiles.host(),
        ended_at=records.utc_now(),
    )
    fs.publish(paths.end, records.encode(end))
    fs.move_once(entry.path(root), next_entry(entry, State.FAILED).path(root))
