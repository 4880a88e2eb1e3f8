"""A claim: the exclusive right of one worker to run one attempt of a job.

The claim is the entry `queue/running/<ticket>.<worker>.json`. A worker ends its claim by renaming
that file. The rename fails if somebody else has renamed the file before, for example because the
worker was silent for a lease. This fences off workers that lost their claim.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec

from jobspec.errors import ClaimLost
from jobspec.queue import links, retry_policy
from jobspec.queue.entries import Entry, next_entry, read_record, scan
from jobspec.records import base as records
from jobspec.records.attempt import End, Result
from jobspec.records.base import Reason, State
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs, tempfiles
from jobspec.storage.layout import AttemptPaths, RootPaths

FinalState = Literal["succeeded", "failed", "cancelled"]


@dataclass(frozen=True)
class Claim:
    """One attempt of one job, held by this process until it ends the claim or loses it."""

    entry: Entry
    root: RootPaths
    spec: JobSpec
    _attempted_moves: set[str] = field(default_factory=set[str], compare=False, repr=False)

    @property
    def job(self) -> str:
        return self.entry.ticket.job

    @property
    def attempt(self) -> int:
        return self.entry.ticket.attempt

    @property
    def worker(self) -> str:
        return self.entry.worker or ""

    @cached_property
    def dir(self) -> AttemptPaths:
        """The only directory that this attempt may write to."""
        return self.root.job(self.job).attempt(self.attempt)

    def held(self) -> bool | None:
        """Whether this process still holds the claim.

        Returns:
            True; False if the claim is certainly lost; None if that is unknown because the
            filesystem does not answer: then publish nothing, carry on and check again.
        """
        try:
            # RACE: a listing can miss a name while other names move, and a lookup can be answered
            # from a cache. The claim is lost only if both miss it.
            return self._is_listed() or fs.exists(self._path) or self._is_listed()
        except OSError:
            return None

    def end(self, end: End) -> None:
        """Write `end.json`, which has to happen before the commit. Raises DiskFull, OSError."""
        self._publish({self.dir.END: records.encode(end)})

    def finish(
        self,
        state: State | FinalState,
        result: Result | Mapping[str, Any] | None = None,
        end: End | None = None,
    ) -> None:
        """Commit the final state: publish `result.json` and `end.json`, then move the claim.

        May be called again after an OSError; finished steps are not repeated.

        Args:
            state: `succeeded`, `failed` or `cancelled`.
            result: published as result.json.
            end: published as end.json; by default one is written if there is none.

        Raises:
            ClaimLost: the claim was reaped or cancelled; nothing has changed.
            OSError: it is not known whether the commit happened; call again.
            DiskFull: nothing has changed.
        """
        target = State(state)
        final = Entry(target, self.entry.ticket)
        self._check_held(final)
        files: dict[str, bytes] = {}
        if result is not None:
            files[self.dir.RESULT] = _encode_result(self, result)
        if end is None and not self._has_end():
            end = self._new_end(Reason(target.value))
        if end is not None:
            files[self.dir.END] = records.encode(end)
        if files:
            self._publish(files)
        self._move(final)
        if target is State.SUCCEEDED:
            # Links can be remade at any time, so their failure must not look like a failed commit.
            with contextlib.suppress(OSError):
                links.publish_links(self.root, final, known=files)

    def requeue(self, reason: Reason | str) -> State:
        """Return the job to the queue, or fail it if its retry budget for `reason` is used up.

        Returns:
            PENDING, as the next attempt, or FAILED.

        Raises:
            ClaimLost, OSError, DiskFull: as for `finish`.
        """
        why = Reason(reason)
        state = retry_policy.next_state(self.root.job(self.job), self.attempt, why)
        target = next_entry(self.entry, state)
        self._check_held(target)
        if not self._has_end():
            self.end(self._new_end(why))
        self._move(target)
        return state

    @cached_property
    def _path(self) -> Path:
        return self.entry.path(self.root)

    def _is_listed(self) -> bool:
        return self.entry.name in fs.list_dir(self.root.state(State.RUNNING))

    def _publish(self, files: Mapping[str, bytes]) -> None:
        try:
            fs.publish_together(self.dir.dir, files)
        except FileNotFoundError:  # a scratch purge deleted the directory while the job ran
            fs.make_dir(self.dir.dir)
            fs.publish_together(self.dir.dir, files)

    def _check_held(self, target: Entry) -> None:
        """Raise ClaimLost before anything is written if the claim is lost.

        Otherwise the late `end.json` would be read as the reason for which the attempt ended. It is
        no loss if the entry was moved to `target` already, by an earlier try or by a reaper that
        read this attempt's `end.json`.
        """
        if self.held() is False and not self._arrived(target):
            raise self._lost()

    def _arrived(self, target: Entry) -> bool:
        """Whether the entry was moved to `target`.

        From `pending/` the next worker may have moved it on, so a later attempt proves it as well;
        but only if this process tried the move, because a reaper makes later attempts too.
        """
        if target.state is not State.PENDING:
            return target.name in fs.list_dir(self.root.state(target.state))
        if target.name not in self._attempted_moves:
            return False
        entry = scan(self.root).get(self.job)
        return entry is not None and entry.ticket.attempt >= target.ticket.attempt

    def _lost(self) -> ClaimLost:
        return ClaimLost(
            f"attempt {self.attempt} of `{self.job}` no longer belongs to `{self.worker}`",
            hint="it was reaped for missing heartbeats, or cancelled; its later output is ignored",
        )

    def _has_end(self) -> bool:
        return read_record(self.dir.end, End) is not None

    def _new_end(self, reason: Reason) -> End:
        now = records.utc_now()
        return End(reason=reason, worker=self.worker, host=tempfiles.host(), ended_at=now)

    def _move(self, target: Entry) -> None:
        self._attempted_moves.add(target.name)
        if not fs.move_once(self._path, target.path(self.root)):
            # RACE: on a network filesystem ENOENT can be a lost reply, so the listings decide.
            if self._is_listed():
                raise OSError(f"the claim on `{self.job}` exists but can't be moved")
            if not self._arrived(target):
                raise self._lost()
        fs.sync_dir(self.root.state(target.state))


def _encode_result(claim: Claim, result: Result | Mapping[str, Any]) -> bytes:
    if isinstance(result, Result):
        return records.encode(result)
    whole = {"job": claim.job, "attempt": claim.attempt, **result}
    return records.encode(msgspec.convert(whole, Result))
