"""A claim: one worker's hold on one attempt of a job, and the fence around it.

The claim is the entry `queue/running/<ticket>.<worker>.json`. Its holder gives it up by renaming
it, which fails once somebody else has renamed it: that is the fence, and there is no other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from jobspec import budget, derived, fs, record
from jobspec.entries import Entry, answers_to, read_bytes, read_record
from jobspec.errors import ClaimLost
from jobspec.paths import AttemptPaths, RootPaths
from jobspec.record import ClaimRecord, End, Reason, Result, State
from jobspec.spec import JobSpec

Verdict = Literal["succeeded", "failed", "cancelled"]


@dataclass(frozen=True)
class Claim:
    """One attempt of one job, held by this process until it commits or is fenced."""

    entry: Entry
    root: RootPaths
    spec: JobSpec

    @property
    def job(self) -> str:
        return self.entry.ticket.job

    @property
    def attempt(self) -> int:
        return self.entry.ticket.attempt

    @property
    def worker(self) -> str:
        return self.entry.worker or ""

    @property
    def dir(self) -> AttemptPaths:
        """Where this attempt writes; the only place where it may."""
        return self.root.job(self.job).attempt(self.attempt)

    def held(self) -> bool | None:
        """Whether the claim is still there.

        Returns:
            True; False if it is gone for sure; None if nobody can tell (the filesystem doesn't
            answer): then publish nothing, go on, look again.
        """
        try:
            # Absent means absent from two successful listings and by name: `exists()` alone is also
            # false by an error, and a listing can miss a name while others move.
            return any(self._is_listed() for _ in range(2)) or fs.exists(self._path)
        except OSError:
            return None

    def end(self, end: End) -> None:
        """Write down why this attempt ends. Comes before the commit. Raises DiskFull, OSError."""
        fs.publish(self.dir.end, record.encode(end))

    def finish(
        self, state: State | Verdict, result: Result | Mapping[str, Any] | None = None
    ) -> None:
        """Commit a verdict: result and end are complete in the attempt, then the claim is moved.

        May be called again after an OSError: what is done already is not done twice.

        Args:
            state: `succeeded`, `failed` or `cancelled`.
            result: published as result.json first. An end.json is written where there is none.

        Raises:
            ClaimLost: the claim was reaped or cancelled; nothing has changed.
            OSError: unknown whether the commit happened; call again.
            DiskFull: nothing has changed.
        """
        target = State(state)
        if result is not None:
            fs.publish(self.dir.result, _encode_result(self, result))
        self._leave_word(Reason(target.value))
        final = Entry(target, self.entry.ticket)
        self._move(final)
        if target is State.SUCCEEDED:
            # Derived, so anybody can remake it: its failure must not look like the commit's.
            with contextlib.suppress(OSError):
                derived.publish(self.root, final)

    def requeue(self, reason: Reason | str) -> State:
        """Give the job back, or end it if its budget for this reason is used up.

        Returns:
            PENDING (as the next attempt) or FAILED.

        Raises:
            ClaimLost, OSError, DiskFull: as for `finish`.
        """
        why = Reason(reason)
        self._leave_word(why)
        state = budget.next_state(self.root.job(self.job), self.attempt, why)
        self._move(following(self.entry, state))
        return state

    @property
    def _path(self) -> Path:
        return self.entry.path(self.root)

    def _is_listed(self) -> bool:
        return self.entry.name in fs.list_dir(self.root.state(State.RUNNING))

    def _leave_word(self, reason: Reason) -> None:
        if read_record(self.dir.end, End) is None:
            now = record.utc_now()
            self.end(End(reason=reason, worker=self.worker, host=fs.host(), ended_at=now))

    def _move(self, target: Entry) -> None:
        if not fs.move_once(self._path, target.path(self.root)):
            # RACE: between a lost reply and here others may have moved it on; a listing of both
            # directories that doesn't show it anywhere is the proof that it was taken away.
            if self._is_listed():
                raise OSError(f"the claim on {self.job} is there but can't be moved")
            if target.name not in fs.list_dir(self.root.state(target.state)):
                raise ClaimLost(
                    f"attempt {self.attempt} of `{self.job}` was taken away from `{self.worker}`",
                    hint="it was reaped after a silence, or cancelled; what it wrote is ignored",
                )
        fs.sync_dir(self.root.state(target.state))


def following(entry: Entry, state: State) -> Entry:
    """The entry that a running or final one becomes when moved to `state`."""
    ticket = entry.ticket
    if state is State.PENDING:
        ticket = ticket.for_attempt(ticket.attempt + 1)
    return Entry(state, ticket)


def take(root: RootPaths, entry: Entry, worker: str, token: str, *, owned: bool) -> Entry | None:
    """Try to make a pending entry this worker's.

    Args:
        root: the root.
        entry: a pending entry.
        worker: the worker's id.
        token: this process's own, telling it from others under the same worker's id.
        owned: refuse a file that another user owns.

    Returns:
        The running entry, its bytes intact and its attempt's directory made; None if another was
        quicker, or if both copies of the spec were damaged, which ends the job.
    """
    running = Entry(State.RUNNING, entry.ticket, worker)
    if not fs.move_once(entry.path(root), running.path(root)):
        return None
    # RACE: two processes under one worker id (a requeued Slurm job) can both find "their" claim
    # after one rename. The attempt's directory settles it: it is made once, and says by whom.
    if not _open_attempt(root, running, token):
        return None
    if not _heal(root, running, owned=owned):
        _fail_corrupt(root, running)
        return None
    return running


def _open_attempt(root: RootPaths, entry: Entry, token: str) -> bool:
    paths = root.job(entry.ticket.job).attempt(entry.ticket.attempt)
    mine = ClaimRecord(
        worker=entry.worker or "", token=token, host=fs.host(), claimed_at=record.utc_now()
    )
    fs.make_dir(paths.dir.parent)
    with fs.staged_dir(paths.dir, {paths.claim.name: (record.encode(mine), 0o644)}) as staged:
        try:
            return fs.place_dir(staged, paths.dir)
        except FileNotFoundError:
            return read_record(paths.claim, ClaimRecord) == mine


def _heal(root: RootPaths, entry: Entry, *, owned: bool) -> bool:
    """Make ticket and spec.json both hold the bytes the id was made from; False if neither does."""
    ticket, spec = entry.path(root), root.job(entry.ticket.job).spec
    copies = {path: read_bytes(path, owned=owned) for path in (ticket, spec)}
    good = {p: data for p, data in copies.items() if data and answers_to(entry.ticket.job, data)}
    if not good:
        return False
    whole = next(iter(good.values()))
    if spec not in good:
        fs.publish(spec, whole, mode=0o444)
    if ticket not in good:
        fs.rewrite(ticket, whole)
    return True


def _fail_corrupt(root: RootPaths, entry: Entry) -> None:
    paths = root.job(entry.ticket.job).attempt(entry.ticket.attempt)
    end = End(
        reason=Reason.CORRUPT,
        message="neither the queue entry nor spec.json holds the bytes the job's id stands for",
        hint="enqueue the spec file again",
        worker=entry.worker or "",
        host=fs.host(),
        ended_at=record.utc_now(),
    )
    fs.publish(paths.end, record.encode(end))
    fs.move_once(entry.path(root), following(entry, State.FAILED).path(root))


def _encode_result(claim: Claim, result: Result | Mapping[str, Any]) -> bytes:
    if isinstance(result, Result):
        return record.encode(result)
    whole = {"job": claim.job, "attempt": claim.attempt, **result}
    return record.encode(msgspec.convert(whole, Result))
