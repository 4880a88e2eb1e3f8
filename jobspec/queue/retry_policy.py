"""Loss budgets: how often a job may come back, counted from the `end.json` of its attempts.

A missing or torn `end.json` means `lost`. `retry.json` in an attempt's directory says that a
person retried the job after it: budgets count from there. `preempted` and `walltime` cost nothing
as long as the job comes forward; `disk` never does, since it is the queue that waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from jobspec.queue.entries import read_bytes, read_record
from jobspec.records import phases
from jobspec.records.attempt import End, Result
from jobspec.records.base import Reason, State
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, CheckpointPaths, JobPaths

# The attempt that brings a count up to its limit is the job's last.
LIMITS = {Reason.LOST: 5, Reason.NODE: 5, Reason.OOM: 2, Reason.FAILED: 2}
STALLED_ATTEMPTS = 3
_STOPPED = (Reason.PREEMPTED, Reason.WALLTIME)


@dataclass(frozen=True)
class EndedAttempt:
    """One ended attempt."""

    attempt: int
    reason: Reason


def history(job: JobPaths, attempt: int) -> list[EndedAttempt]:
    """The ended attempts up to and with `attempt`, oldest first, since the last retry.

    Raises:
        OSError: an end.json can't be read; then nothing is known, and nothing may be decided.
    """
    past: list[EndedAttempt] = []
    for number in range(attempt, 0, -1):
        paths = job.attempt(number)
        if fs.exists(paths.retry):
            break
        if not _was_purged(job, number):
            past.insert(0, EndedAttempt(number, _reason(paths)))
    return past


@dataclass(frozen=True)
class RetryUse:
    """What a reason has used up: the attempt that makes `count` the `limit` is the last.

    `limit` is None for what is never counted.
    """

    reason: Reason
    count: int
    limit: int | None


def retry_use(job: JobPaths, attempt: int) -> list[RetryUse]:
    """Every reason for which attempts up to `attempt` ended, the last one's last."""
    past = history(job, attempt)
    reasons = dict.fromkeys(each.reason for each in reversed(past))
    return [_used_by(job, past, reason) for reason in reversed(reasons)]


def _used_by(job: JobPaths, past: Sequence[EndedAttempt], reason: Reason) -> RetryUse:
    if reason in _STOPPED:
        last = past[-1].reason is reason
        return RetryUse(reason, _barren(job, past) if last else 0, STALLED_ATTEMPTS)
    return RetryUse(reason, sum(each.reason is reason for each in past), LIMITS.get(reason))


def next_state(job: JobPaths, attempt: int, reason: Reason | None = None) -> State:
    """Where a job goes whose attempt ended without a verdict.

    Args:
        job: the job's directory.
        attempt: the attempt that ended.
        reason: why it did, if its holder says so; else its end.json does.

    Returns:
        PENDING; FAILED once a budget is used up or three attempts in a row brought nothing new;
        SUCCEEDED where the holder had finished and only died before its commit.
    """
    paths = job.attempt(attempt)
    if reason is None and _had_finished(paths):
        return State.SUCCEEDED
    past = history(job, attempt)
    if reason is not None and past:
        past[-1] = EndedAttempt(attempt, reason)
    if not past or past[-1].reason is Reason.DISK:
        return State.PENDING
    if past[-1].reason is Reason.CORRUPT or _is_used_up(past) or _is_stalled(job, past):
        return State.FAILED
    return State.PENDING


def _reason(paths: AttemptPaths) -> Reason:
    end = read_record(paths.end, End)
    # An attempt that wrote `succeeded` or `cancelled` and yet came back was lost before its commit.
    if end is None or end.reason in (Reason.SUCCEEDED, Reason.CANCELLED):
        return Reason.LOST
    return end.reason


def _was_purged(job: JobPaths, attempt: int) -> bool:
    """Whether the entry was purged before anybody began the attempt: that is nobody's loss."""
    return fs.exists(job.rebuilt(attempt + 1)) and not fs.exists(job.attempt(attempt).dir)


def _had_finished(paths: AttemptPaths) -> bool:
    end = read_record(paths.end, End)
    finished = end is not None and end.reason is Reason.SUCCEEDED
    return finished and read_record(paths.result, Result) is not None


def _is_used_up(past: Sequence[EndedAttempt]) -> bool:
    last = past[-1].reason
    limit = LIMITS.get(last)
    return limit is not None and sum(each.reason is last for each in past) >= limit


def _is_stalled(job: JobPaths, past: Sequence[EndedAttempt]) -> bool:
    return _barren(job, past) >= STALLED_ATTEMPTS


def _barren(job: JobPaths, past: Sequence[EndedAttempt]) -> int:
    """How many of the last attempts in a row were stopped before they brought anything new."""
    if not past or past[-1].reason not in _STOPPED:
        return 0
    sealed, count = _sealed_by(job, past), 0
    for each in reversed(past):
        if each.reason not in _STOPPED or each.attempt in sealed:
            break
        if _finished_work(job.attempt(each.attempt)):
            break
        count += 1
    return count


def _sealed_by(job: JobPaths, past: Sequence[EndedAttempt]) -> set[int]:
    """The attempts that wrote a checkpoint, wherever it is now: later attempts take them over.

    The one after the last may have done so by now, and nothing of it counts but what it took.
    """
    writers: set[int] = set()
    for attempt in (*(each.attempt for each in past), past[-1].attempt + 1):
        checkpoints = job.attempt(attempt).checkpoints
        for name in fs.list_names(checkpoints):
            data = read_bytes(CheckpointPaths(checkpoints / name).manifest)
            writer = _field(data, "attempt")
            if data is not None:
                writers.add(writer if isinstance(writer, int) else attempt)
    return writers


def _finished_work(paths: AttemptPaths) -> bool:
    """Whether training or scoring finished here, or a benchmark left samples."""
    end = read_record(paths.end, End)
    kept = {each.phase for each in end.phases if each.kept} if end is not None else set[str]()
    if any(fs.exists(paths.done(phase)) for phase in phases.KEEPING if phase not in kept):
        return True
    return any(fs.list_names(paths.eval / name) for name in fs.list_names(paths.eval))


def _field(data: bytes | None, name: str) -> Any:
    try:
        return msgspec.json.decode(data or b"{}", type=dict[str, Any]).get(name)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
