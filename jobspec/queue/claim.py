"""A claim: one worker's hold on one attempt of a job, and the fence around it.

The claim is the entry `queue/running/<ticket>.<worker>.json`. Its holder gives it up by renaming
it, which fails once somebody else has renamed it: that is the fence, and there is no other.
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
from jobspec.queue.entries import Entry, following, read_record
from jobspec.records import base as records
from jobspec.records.attempt import End, Result
from jobspec.records.base import Reason, State
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs, tempfiles
from jobspec.storage.layout import AttemptPaths, RootPaths

Verdict = Literal["succeeded", "failed", "cancelled"]


@dataclass(frozen=True)
class Claim:
    """One attempt of one job, held by this process until it commits or is fenced."""

    entry: Entry
    root: RootPaths
    spec: JobSpec
    _tried: set[str] = field(default_factory=set[str], compare=False, repr=False)

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
        """Where this attempt writes; the only place where it may."""
        return self.root.job(self.job).attempt(self.attempt)

    def held(self) -> bool | None:
        """Whether the claim is still there.

        Returns:
            True; False if it is gone for sure; None if nobody can tell (the filesystem doesn't
            answer): then publish nothing, go on, look again.
        """
        try:
            # A listing can miss a name while others move, and a lookup alone can be answered from
            # a cache; what neither shows is gone.
            return self._is_listed() or fs.exists(self._path) or self._is_listed()
        except OSError:
            return None

    def end(self, end: End) -> None:
        """Write down why this attempt ends. Comes before the commit. Raises DiskFull, OSError."""
        self._publish({self.dir.END: records.encode(end)})

    def finish(
        self,
        state: State | Verdict,
        result: Result | Mapping[str, Any] | None = None,
        end: End | None = None,
    ) -> None:
        """Commit a verdict: result and end are complete in the attempt, then the claim is moved.

        May be called again after an OSError: what is done already is not done twice.

        Args:
            state: `succeeded`, `failed` or `cancelled`.
            result: published as result.json first.
            end: published as end.json; by default one is written where there is none.

        Raises:
            ClaimLost: the claim was reaped or cancelled; nothing has changed.
            OSError: unknown whether the commit happened; call again.
            DiskFull: nothing has changed.
        """
        target = State(state)
        final = Entry(target, self.entry.ticket)
        self._check_held(final)
        words: dict[str, bytes] = {}
        if result is not None:
            words[self.dir.RESULT] = _encode_result(self, result)
        if end is None and not self._left_word():
            end = self._word(Reason(target.value))
        if end is not None:
            words[self.dir.END] = records.encode(end)
        if words:
            self._publish(words)
        self._move(final)
        if target is State.SUCCEEDED:
            # Derived, so anybody can remake it: its failure must not look like the commit's.
            with contextlib.suppress(OSError):
                links.publish(self.root, final, known=words)

    def requeue(self, reason: Reason | str) -> State:
        """Give the job back, or end it if its budget for this reason is used up.

        Returns:
            PENDING (as the next attempt) or FAILED.

        Raises:
            ClaimLost, OSError, DiskFull: as for `finish`.
        """
        why = Reason(reason)
        state = retry_policy.next_state(self.root.job(self.job), self.attempt, why)
        target = following(self.entry, state)
        self._check_held(target)
        if not self._left_word():
            self.end(self._word(why))
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
        except FileNotFoundError:  # a scratch purge took the directory while the job ran
            fs.make_dir(self.dir.dir)
            fs.publish_together(self.dir.dir, files)

    def _check_held(self, target: Entry) -> None:
        """Let one that was fenced long ago leave no word, which would read as its attempt's end.

        An earlier try, or a reaper that took it at its word, may have made the very same move.
        """
        if self.held() is not False:
            return
        made = target.name in fs.list_dir(self.root.state(target.state))
        if not made or (target.state is State.PENDING and target.name not in self._tried):
            raise self._lost()

    def _lost(self) -> ClaimLost:
        return ClaimLost(
            f"attempt {self.attempt} of `{self.job}` was taken away from `{self.worker}`",
            hint="it was reaped after a silence, or cancelled; what it wrote is ignored",
        )

    def _left_word(self) -> bool:
        return read_record(self.dir.end, End) is not None

    def _word(self, reason: Reason) -> End:
        now = records.utc_now()
        return End(reason=reason, worker=self.worker, host=tempfiles.host(), ended_at=now)

    def _move(self, target: Entry) -> None:
        self._tried.add(target.name)
        if not fs.move_once(self._path, target.path(self.root)):
            # RACE: an ENOENT proves little on a network filesystem. Gone is what a listing of
            # `running/` lacks; done is what a listing of the target's directory has.
            if self._is_listed():
                raise OSError(f"the claim on `{self.job}` is there but can't be moved")
            if target.name not in fs.list_dir(self.root.state(target.state)):
                raise self._lost()
        fs.sync_dir(self.root.state(target.state))


def _encode_result(claim: Claim, result: Result | Mapping[str, Any]) -> bytes:
    if isinstance(result, Result):
        return records.encode(result)
    whole = {"job": claim.job, "attempt": claim.attempt, **result}
    return records.encode(msgspec.convert(whole, Result))
