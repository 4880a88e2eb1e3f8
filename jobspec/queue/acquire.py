"""How a pending entry becomes one worker's claim: the rename, and what makes it good.

The rename is the arbiter. What follows it makes the claim usable: the attempt's directory, which
also proves whose process won, and the spec's bytes, checked against the job's id.
"""

from __future__ import annotations

from pathlib import Path

from jobspec.errors import DiskFull, RootError
from jobspec.queue.entries import Entry, answers_to, following, read_bytes, read_record
from jobspec.records import base as records
from jobspec.records.attempt import ClaimRecord, End
from jobspec.records.base import Reason, State
from jobspec.storage import fs, tempfiles
from jobspec.storage.layout import RootPaths


def grab(root: RootPaths, entry: Entry, running: Entry) -> bool:
    """Move a pending entry to `running/`; False if another was quicker.

    Raises:
        OSError: unknown whether it moved.
    """
    return fs.move_once(entry.path(root), running.path(root))


def settle(
    root: RootPaths, running: Entry, token: str, *, owned: bool, read: bytes | None = None
) -> bytes | None:
    """Make a grabbed entry a good claim. May be called again after an OSError.

    Args:
        root: the root.
        running: the entry, named for this worker.
        token: this process's own, telling it from others under the same worker's id.
        owned: refuse files that another user owns.
        read: the ticket's bytes, where they were found good just before it was grabbed.

    Returns:
        The spec's bytes; None if the claim is another process's, or if no copy of the spec was
        good, which ends the job as `corrupt`.

    Raises:
        DiskFull: the entry is pending again as if nothing had happened, if its attempt had not
            begun; otherwise it is still claimed.
    """
    try:
        if not _open_attempt(root, running, token):
            return None
        data = _heal(root, running, read, owned=owned)
        if data is None:
            _fail_corrupt(root, running)
        return data
    except DiskFull:
        # Its attempt was not begun, so it goes back under the same number, costing no budget.
        if not fs.exists(root.job(running.ticket.job).attempt(running.ticket.attempt).dir):
            pending = Entry(State.PENDING, running.ticket)
            fs.move_once(running.path(root), pending.path(root))
        raise


def _open_attempt(root: RootPaths, entry: Entry, token: str) -> bool:
    """Make the attempt's directory, or find that this very process made it.

    RACE: two processes under one worker id (a requeued Slurm job) can both find "their" claim after
    one rename, the second taking its ENOENT for a lost reply. The directory settles it: it is made
    by one rename too, but its content says by whom.
    """
    paths = root.job(entry.ticket.job).attempt(entry.ticket.attempt)
    mine = ClaimRecord(
        worker=entry.worker or "", token=token, host=tempfiles.host(), claimed_at=records.utc_now()
    )
    fs.make_dir(paths.dir.parent)
    files = {paths.CLAIM: (records.encode(mine), 0o644)}
    with fs.staged_dir(paths.dir, files, sync=False) as staged:
        if fs.place_dir(staged, paths.dir):
            return True
    there = read_record(paths.claim, ClaimRecord)
    return there is not None and there.token == token


def _heal(root: RootPaths, entry: Entry, read: bytes | None, *, owned: bool) -> bytes | None:
    """Make ticket and spec.json hold the bytes the id was made from; None if neither does."""
    job = root.job(entry.ticket.job)
    ticket = read or _read_good(job.job, entry.path(root), owned=owned)
    spec = _read_good(job.job, job.spec, owned=owned)
    if spec is None and ticket is not None:
        if fs.exists(job.spec):  # somebody's edit, perhaps: kept, though it isn't this job
            fs.move_once(job.spec, job.edited_spec)
        fs.publish(job.spec, ticket, mode=0o444)
    if ticket is None and spec is not None:
        fs.rewrite(entry.path(root), spec)
    return ticket or spec


def _read_good(job: str, path: Path, *, owned: bool) -> bytes | None:
    """A file's bytes, if the job's id was made from them; another user's are as good as damaged."""
    try:
        data = read_bytes(path, owned=owned)
    except RootError:
        return None
    return data if data is not None and answers_to(job, data) else None


def _fail_corrupt(root: RootPaths, entry: Entry) -> None:
    paths = root.job(entry.ticket.job).attempt(entry.ticket.attempt)
    end = End(
        reason=Reason.CORRUPT,
        message="neither the queue entry nor spec.json holds the bytes the job's id stands for",
        hint="enqueue the spec file again",
        worker=entry.worker or "",
        host=tempfiles.host(),
        ended_at=records.utc_now(),
    )
    fs.publish(paths.end, records.encode(end))
    fs.move_once(entry.path(root), following(entry, State.FAILED).path(root))
