"""Commits an attempt: writes its end and result, then moves its claim to the next state."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobspec.errors import ClaimLost, DiskFull
from jobspec.maintenance import disk
from jobspec.queue.claim import Claim
from jobspec.records.attempt import End, Result
from jobspec.records.base import Reason, State
from worker.supervisor.exit_reason import PhaseOutcome

if TYPE_CHECKING:
    from worker.supervisor.worker import Worker


@dataclass(frozen=True)
class AttemptOutcome:
    """How an attempt ended. `state` is None if the claim was lost."""

    state: State | None
    reason: Reason
    message: str = ""
    wall_s: float = 0.0


def require_claim(claim: Claim) -> None:
    """Raise ClaimLost if the claim is certainly lost."""
    if claim.held() is False:
        raise ClaimLost(f"attempt {claim.attempt} of `{claim.job}` no longer holds its claim")


class Commit:
    """Writes the outcome of one attempt, and retries as long as the root does not answer."""

    def __init__(self, worker: Worker, claim: Claim, failed_on: str | None) -> None:
        self._worker = worker
        self._claim = claim
        self._failed_on = failed_on

    def write(self, outcome: PhaseOutcome, end: End, result: Result | None) -> AttemptOutcome:
        """Write why the attempt ended, then move the claim.

        Args:
            outcome: how the phases ended.
            end: the record of the attempt's end.
            result: the job's result, if it succeeded.

        Raises:
            ClaimLost: another worker has the job.
        """
        while True:
            if self._must_leave():
                # No reason is recorded: the claim will be reaped, and the reason is `lost`.
                message = "the shared directory is not writable"
                return AttemptOutcome(None, Reason.LOST, message, end.wall_s)
            try:
                state = self._move(outcome, end, result)
                message = outcome.message or outcome.reason
                return AttemptOutcome(state, outcome.reason, message, end.wall_s)
            except DiskFull as error:
                self._worker.hold_for_space(str(error))
                self._wait_for_root()
            except OSError as error:
                self._worker.report(error)
                self._wait_for_root()

    def _must_leave(self) -> bool:
        """Whether a stop was requested so long ago that there is no time for another retry."""
        signals = self._worker.signals
        return signals.at_once or signals.asked_s() > self._worker.options.grace_s

    def _wait_for_root(self) -> None:
        time.sleep(1.0)
        self._worker.try_heartbeat()

    def _move(self, outcome: PhaseOutcome, end: End, result: Result | None) -> State:
        if outcome.reason is Reason.SUCCEEDED:
            self._claim.finish(State.SUCCEEDED, result, end)
            self._drop_states()
            self._worker.quarantine_host(self._failed_on, self._claim.job)
            return State.SUCCEEDED
        if not outcome.again:
            self._claim.finish(State.FAILED, end=end)
            return State.FAILED
        # `finish` checks the claim itself and recognizes its own earlier commit; `end` does not.
        require_claim(self._claim)
        if outcome.reason is Reason.DISK:
            self._worker.hold_for_space(outcome.message)
        self._claim.end(end)  # before `requeue`, which reads it to count retries
        return self._claim.requeue(outcome.reason)

    def _drop_states(self) -> None:
        """Delete checkpoints and trash, because a job that succeeded is never resumed."""
        with contextlib.suppress(OSError, DiskFull):
            for path in disk.find_leftovers(
                self._worker.queue.paths.job(self._claim.job), states=True
            ):
                disk.delete(path)
