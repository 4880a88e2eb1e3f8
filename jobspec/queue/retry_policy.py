"""Retry budgets: how often a job is retried, counted from the `end.json` of its attempts.

A missing or torn `end.json` means `lost`. A `retry.json` in an attempt's directory means that a
user retried the job after that attempt, so counting starts there. It also starts again with each
attempt that saved a checkpoint or finished training, so that a long run may lose any number of
nodes. `preempted` and `walltime` count only in a row and without progress. `disk` never counts,
because the queue waits for space instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobspec.queue.entries import read_bytes, read_record
from jobspec.records import base as records
from jobspec.records import phases
from jobspec.records.attempt import End, Result
from jobspec.records.base import Reason, State
from jobspec.records.checkpoint import CheckpointManifest
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, CheckpointPaths, JobPaths

# The job fails with the attempt that brings the count up to its limit.
LIMITS = {Reason.LOST: 5, Reason.NODE: 5, Reason.FILESYSTEM: 5, Reason.OOM: 2, Reason.FAILED: 2}
STALLED_ATTEMPTS = 3
_STOPPED = (Reason.PREEMPTED, Reason.WALLTIME)


@dataclass(frozen=True)
class EndedAttempt:
    """One ended attempt."""

    attempt: int
    reason: Reason


def list_ended(job: JobPaths, attempt: int) -> list[EndedAttempt]:
    """List the ended attempts up to and including `attempt`, oldest first, since the last retry.

    Raises:
        OSError: an end.json can't be read, so nothing may be decided now.
    """
    ended: list[EndedAttempt] = []
    for number in range(attempt, 0, -1):
        paths = job.attempt(number)
        if fs.exists(paths.retry):
            break
        if not _was_purged(job, number):
            ended.insert(0, EndedAttempt(number, _reason(paths)))
    return ended


@dataclass(frozen=True)
class RetryBudget:
    """How much of the retry budget for a reason is used up.

    Attributes:
        limit: the job fails when `count` reaches it; None for a reason without a limit.
    """

    reason: Reason
    count: int
    limit: int | None


def used_budgets(job: JobPaths, attempt: int) -> list[RetryBudget]:
    """The budget of each reason for which attempts up to `attempt` ended; the latest is last."""
    ended = list_ended(job, attempt)
    reasons = dict.fromkeys(each.reason for each in reversed(ended))
    return _budgets(job, ended, list(reversed(reasons)))


def _budgets(
    job: JobPaths, ended: Sequence[EndedAttempt], reasons: Sequence[Reason]
) -> list[RetryBudget]:
    # Finding the last progress reads files: once for all reasons, and only if one has a limit.
    limited = not LIMITS.keys().isdisjoint(reasons)
    counted = _since_last_progress(job, ended) if limited else ended
    budgets: list[RetryBudget] = []
    for reason in reasons:
        count, limit = sum(each.reason is reason for each in counted), LIMITS.get(reason)
        if reason in _STOPPED:
            count = _stalled_attempts(job, ended) if ended[-1].reason is reason else 0
            limit = STALLED_ATTEMPTS
        budgets.append(RetryBudget(reason, count, limit))
    return budgets


def next_state(job: JobPaths, attempt: int, reason: Reason | None = None) -> State:
    """The state that a job moves to after an attempt that did not commit a final state.

    Args:
        job: the job's directory.
        attempt: the attempt that ended.
        reason: why it ended, if the claim's holder gives it; by default its end.json tells.

    Returns:
        PENDING; FAILED if a budget is used up or three attempts in a row made no progress;
        SUCCEEDED if the worker had finished and died just before its commit.
    """
    paths = job.attempt(attempt)
    if reason is None and _had_finished(paths):
        return State.SUCCEEDED
    ended = list_ended(job, attempt)
    if reason is not None and ended:
        ended[-1] = EndedAttempt(attempt, reason)
    if not ended or ended[-1].reason is Reason.DISK:
        return State.PENDING
    (budget,) = _budgets(job, ended, [ended[-1].reason])
    used_up = budget.limit is not None and budget.count >= budget.limit
    if ended[-1].reason is Reason.CORRUPT or used_up:
        return State.FAILED
    return State.PENDING


def _reason(paths: AttemptPaths) -> Reason:
    end = read_record(paths.end, End)
    # An attempt that wrote `succeeded` or `cancelled` but was requeued was lost before its commit.
    if end is None or end.reason in (Reason.SUCCEEDED, Reason.CANCELLED):
        return Reason.LOST
    return end.reason


def _was_purged(job: JobPaths, attempt: int) -> bool:
    """Whether the entry was purged before the attempt began, which does not count as a loss."""
    return fs.exists(job.rebuilt(attempt + 1)) and not fs.exists(job.attempt(attempt).dir)


def _had_finished(paths: AttemptPaths) -> bool:
    end = read_record(paths.end, End)
    finished = end is not None and end.reason is Reason.SUCCEEDED
    return finished and read_record(paths.result, Result) is not None


def _since_last_progress(job: JobPaths, ended: Sequence[EndedAttempt]) -> Sequence[EndedAttempt]:
    """The attempts from the last one on that saved a checkpoint or finished training.

    Samples do not count here: an attempt has copies of those that earlier ones generated.
    """
    train = phases.TRAIN.name
    trained = (each.attempt for each in ended if fs.exists(job.attempt(each.attempt).done(train)))
    # Only the first one: the others have a copy of its report.
    progressed = _checkpoint_writers(job, ended) | {next(trained, 0)}
    last = max((each.attempt for each in ended if each.attempt in progressed), default=0)
    return [each for each in ended if each.attempt >= last]


def _stalled_attempts(job: JobPaths, ended: Sequence[EndedAttempt]) -> int:
    """How many of the last attempts in a row were stopped before they made any progress."""
    if not ended or ended[-1].reason not in _STOPPED:
        return 0
    writers, count = _checkpoint_writers(job, ended), 0
    for each in reversed(ended):
        if each.reason not in _STOPPED or each.attempt in writers:
            break
        if _has_finished_work(job.attempt(each.attempt)):
            break
        count += 1
    return count


def _checkpoint_writers(job: JobPaths, ended: Sequence[EndedAttempt]) -> set[int]:
    """The attempts that wrote a checkpoint, even if a later attempt carried it over.

    The attempt after the last one may have carried checkpoints over already. Checkpoints that it
    wrote itself have no effect, because it is not among the ended ones.
    """
    writers: set[int] = set()
    for attempt in (*(each.attempt for each in ended), ended[-1].attempt + 1):
        checkpoints = job.attempt(attempt).checkpoints
        for name in fs.list_names(checkpoints):
            data = read_bytes(CheckpointPaths(checkpoints / name).manifest)
            if data is not None:
                manifest = records.parse(data, CheckpointManifest)
                writers.add(manifest.attempt if manifest is not None else attempt)
    return writers


def _has_finished_work(paths: AttemptPaths) -> bool:
    """Whether training or scoring finished in this attempt, or a benchmark has samples."""
    end = read_record(paths.end, End)
    kept = {each.phase for each in end.phases if each.kept} if end is not None else set[str]()
    if any(fs.exists(paths.done(phase)) for phase in phases.KEEPING if phase not in kept):
        return True
    return any(fs.list_names(paths.eval / name) for name in fs.list_names(paths.eval))
