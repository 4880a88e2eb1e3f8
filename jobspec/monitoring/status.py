"""What `status` and `show` print, as plain structs.

Counting jobs costs one listing per state. Files are read only for the jobs that are shown. Of ended
jobs only the newest are shown, so ten thousand of them cost no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from jobspec.errors import JobspecError
from jobspec.monitoring import workers
from jobspec.monitoring.cost import Cost
from jobspec.monitoring.workers import WorkerRow
from jobspec.queue import fair_share, retry_policy
from jobspec.records import base as records
from jobspec.records import metrics
from jobspec.records.attempt import ClaimRecord, End, PhaseTime, Progress, Result, read_end
from jobspec.records.base import Reason, State
from jobspec.records.manifest import Manifest
from jobspec.records.queue_files import Hold
from jobspec.records.reports import LossChange
from jobspec.storage import fs

if TYPE_CHECKING:
    from jobspec.queue.job import Job
    from jobspec.queue.queue import Queue
    from jobspec.storage.layout import AttemptPaths

SCHEMA = 1
SHOWN_FIRST = (State.RUNNING, State.PENDING, State.FAILED, State.SUCCEEDED, State.CANCELLED)


class EndedAttemptRow(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt in `status --json` that ended before the job did, and why."""

    attempt: int
    reason: str
    phase: str | None = None
    step: int | None = None
    host: str | None = None
    retried: bool = False


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """One job in `status --json`. Unknown values are null.

    Attributes:
        progress: the finished fraction of the phase, 0 to 1: `done` of `total` `unit`s.
        reason_count: attempts that count against `reason`'s retry budget, which is `reason_limit`.
        waits_for: what a pending job needs that no live worker has, or whose turn is before it.
        loss_rise: of a training that made the loss higher; of a running one, so far.
        loss, eval_loss: the newest or final training and held-out loss.
        non_finite: it failed because a loss or the gradient's norm was NaN or infinite.
        directory_missing: the job's directory was deleted; `fsck` makes it again.
        user: who enqueued it.
        note: what the worker of a running job says: that its node became slow.
    """

    job: str
    name: str
    state: str
    attempt: int
    phase: str | None = None
    progress: float | None = None
    eta_s: float | None = None
    worker: str | None = None
    host: str | None = None
    reason: str | None = None
    enqueued_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    metrics: dict[str, float | None] = {}
    reason_count: int | None = None
    reason_limit: int | None = None
    done: float | None = None
    total: float | None = None
    unit: str | None = None
    waits_for: str | None = None
    attempts: list[EndedAttemptRow] = []
    loss_rise: LossChange | None = None
    directory_missing: bool = False
    user: str | None = None
    loss: float | None = None
    eval_loss: float | None = None
    non_finite: bool = False
    note: str | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `status --json`.

    Attributes:
        nothing_runs: why pending jobs are not claimed; null if that needs no explanation.
        left_out: the number of jobs, by state, that are not in `jobs` because of the row limit.
        quarantine_reasons: `aside` in JSON: why each host of `quarantine` is there.
    """

    schema: int = SCHEMA
    root: str
    counts: dict[str, int]
    jobs: list[JobRow]
    workers: list[WorkerRow]
    quarantine: list[str]
    nothing_runs: str | None = None
    left_out: dict[str, int] = {}
    quarantine_reasons: dict[str, str] = msgspec.field(default_factory=dict[str, str], name="aside")
    hold: Hold | None = None


class AttemptRow(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt in `show --json`."""

    attempt: int
    reason: str | None = None
    message: str = ""
    hint: str | None = None
    phase: str | None = None
    step: int | None = None
    worker: str = ""
    host: str = ""
    started_at: str | None = None
    ended_at: str | None = None
    wall_s: float | None = None
    overhead_s: float | None = None
    phases: tuple[PhaseTime, ...] = ()
    retried: bool = False


class LossRow(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the retry budget for a reason is used; `limit` is null if there is none."""

    reason: str
    count: int
    limit: int | None


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `show --json`. `manifest` describes the newest attempt.

    Attributes:
        cost: left to the caller, since it reads the rows of all attempts.
    """

    schema: int = SCHEMA
    job: JobRow
    priority: int
    dir: str
    attempts: list[AttemptRow]
    losses: list[LossRow]
    result: Result | None
    spec: Any
    manifest: Manifest | None = None
    cost: Cost | None = None


@dataclass(frozen=True)
class Selection:
    """The jobs to show; `hidden` counts the others by state."""

    jobs: list[Job]
    hidden: dict[State, int]


def select(jobs: Sequence[Job], limit: int | None) -> Selection:
    """Select the jobs to show: all running ones and at most `limit` of each other state.

    Pending jobs are chosen in claim order, ended ones newest first.
    """
    shown: list[Job] = []
    hidden: dict[State, int] = {}
    for state in SHOWN_FIRST:
        mine = [job for job in jobs if job.state == state]
        ended = state in records.FINAL
        mine.sort(key=lambda job: job.enqueued_at if ended else job.entry.ticket, reverse=ended)
        kept = mine if state is State.RUNNING or limit is None else mine[:limit]
        shown += kept
        if len(mine) > len(kept):
            hidden[state] = len(mine) - len(kept)
    return Selection(shown, hidden)


def count_by_state(jobs: Iterable[Job]) -> dict[str, int]:
    """Count jobs by state; states without jobs count 0."""
    count = dict.fromkeys([state.value for state in State], 0)
    for job in jobs:
        count[job.state.value] += 1
    return count


def status(queue: Queue, jobs: Sequence[Job], shown: Selection) -> Status:
    """Describe the queue as it is now.

    Args:
        jobs: all jobs, for the counts.
        shown: the jobs whose files are read.
    """
    worker_rows = workers.rows(queue)
    turns = _why_others_come_first(queue, jobs, shown.jobs)
    reasons = {host: mark.reason for host, mark in queue.quarantined().items()}
    held = queue.on_hold()
    return Status(
        root=str(queue.paths.root),
        counts=count_by_state(jobs),
        jobs=[job_row(job, worker_rows, turns.get(job.id)) for job in shown.jobs],
        workers=worker_rows,
        quarantine=list(reasons),
        nothing_runs=workers.why_nothing_runs(queue, jobs, worker_rows, reasons),
        left_out={state.value: count for state, count in shown.hidden.items()},
        quarantine_reasons=reasons,
        hold=held,
    )


def _why_others_come_first(
    queue: Queue, jobs: Sequence[Job], shown: Sequence[Job]
) -> dict[str, str]:
    """Why pending jobs wait although others are claimed: a limit, or another user's turn."""
    share = fair_share.FairShare(queue.paths, share=False)
    share.refresh()
    if not share.has_limits and not share.gpu_hours:
        return {}
    waiting = [job.entry for job in jobs if job.state is State.PENDING]
    waiting.sort(key=lambda entry: entry.ticket.enqueued)
    of_shown = {job.id: job.entry for job in shown if job.state is State.PENDING}
    found = {job: fair_share.explain(share, waiting, entry) for job, entry in of_shown.items()}
    return {job: why for job, why in found.items() if why is not None}


def job_row(job: Job, worker_rows: Sequence[WorkerRow] = (), turn: str | None = None) -> JobRow:
    """Describe one job: its progress while it runs, its scores or its end afterwards.

    `turn` says why a pending job's user has to wait.
    """
    from jobspec.monitoring import losses  # here, since an empty queue needs none

    attempt = job.paths.attempt(job.attempt)
    progress = records.read(attempt.progress, Progress) if job.state is State.RUNNING else None
    end = records.read(attempt.end, End) if job.state in records.FINAL else None
    worker = job.worker or (end.worker if end else None) or None
    held_by = next((row for row in worker_rows if row.worker == worker), None)
    able = [row for row in worker_rows if row.alive]
    budget, finished = _loss(job), result(job)
    shown = _metrics(job, finished, progress)
    trained = losses.read(job, finished, progress, end, shown)
    return JobRow(
        job=job.id,
        name=_name(job),
        state=job.state.value,
        attempt=job.attempt,
        phase=(progress.phase if progress else end.phase if end else None) or None,
        progress=progress.fraction if progress else None,
        eta_s=progress.eta_s if progress else None,
        worker=worker,
        host=(end.host if end else held_by.host if held_by else "") or None,
        reason=job.reason.value if job.reason is not None else None,
        reason_count=budget.count if budget is not None else None,
        reason_limit=budget.limit if budget is not None else None,
        enqueued_at=job.enqueued_at,
        started_at=_started(attempt, end) if job.state is not State.PENDING else None,
        ended_at=(end.ended_at if end else None) or None,
        metrics=shown,
        done=progress.done if progress else None,
        total=progress.total if progress else None,
        unit=progress.unit if progress else None,
        waits_for=(workers.unmet_need(job, able) or turn) if job.state is State.PENDING else None,
        attempts=_ended_attempts(job),
        loss_rise=trained.rise,
        directory_missing=not fs.exists(job.paths.dir),
        user=job.user,
        loss=trained.loss,
        eval_loss=trained.eval_loss,
        non_finite=trained.non_finite,
        note=held_by.note if held_by and job.state is State.RUNNING else None,
    )


def job_report(job: Job, worker_rows: Sequence[WorkerRow] = ()) -> JobReport:
    """Describe one job with all its attempts."""
    from jobspec.records.metrics import attempts  # here, so that `status` need not load it

    return JobReport(
        job=job_row(job, worker_rows),
        priority=job.priority,
        dir=str(job.paths.dir),
        attempts=[_attempt_row(attempt) for attempt in attempts(job.paths)],
        losses=_losses(job),
        result=result(job),
        spec=job.spec,
        manifest=_manifest(job),
    )


def _manifest(job: Job) -> Manifest | None:
    """Read the manifest of the newest attempt; None if it has not written one."""
    try:
        return records.read(job.paths.attempt(job.attempt).manifest, Manifest)
    except OSError:
        return None


def result(job: Job) -> Result | None:
    """Read the result of a succeeded job; None for other jobs."""
    if job.state is not State.SUCCEEDED:
        return None
    return records.read(job.paths.attempt(job.attempt).result, Result)


def _name(job: Job) -> str:
    try:
        return job.spec.name
    except (JobspecError, OSError):
        return job.id.rpartition("-")[0]  # a damaged spec must not hide the rest of the queue


def _loss(job: Job) -> LossRow | None:
    """The retry budget of the reason that is shown for a job; None if there is none."""
    if job.reason is None or job.reason in (Reason.SUCCEEDED, Reason.CANCELLED):
        return None
    return next((loss for loss in _losses(job) if loss.reason == job.reason.value), None)


def _losses(job: Job) -> list[LossRow]:
    """The used retry budgets; a running, succeeded or cancelled attempt does not count."""
    lost = job.attempt if job.state is State.FAILED else job.attempt - 1
    try:
        used = retry_policy.used_budgets(job.paths, lost)
    except OSError:
        return []
    return [LossRow(reason=each.reason.value, count=each.count, limit=each.limit) for each in used]


def _ended_attempts(job: Job) -> list[EndedAttemptRow]:
    """The attempts before the present one; all attempts of a failed job."""
    last = job.attempt if job.state is State.FAILED else job.attempt - 1
    return [_ended_attempt_row(job.paths.attempt(number)) for number in range(1, last + 1)]


def _ended_attempt_row(attempt: AttemptPaths) -> EndedAttemptRow:
    end = read_end(attempt) or End(reason=Reason.LOST)
    claim = None if end.host else records.read(attempt.claim, ClaimRecord)
    return EndedAttemptRow(
        attempt=attempt.number,
        reason=end.reason.value,
        phase=end.phase,
        step=end.step,
        host=end.host or (claim.host if claim is not None else "") or None,
        retried=fs.exists(attempt.retry),
    )


def _metrics(
    job: Job, finished: Result | None, progress: Progress | None
) -> dict[str, float | None]:
    if finished is not None:
        return finished.metrics
    if progress is None:
        return {}
    newest = metrics.newest(job.paths.attempt(job.attempt), progress.phase)
    return {**progress.metrics, **newest}


def _started(attempt: AttemptPaths, end: End | None) -> str | None:
    claim = records.read(attempt.claim, ClaimRecord)
    return (claim.claimed_at if claim else None) or (end.started_at if end else None) or None


def _attempt_row(attempt: AttemptPaths) -> AttemptRow:
    end = read_end(attempt)
    claim = records.read(attempt.claim, ClaimRecord)
    retried = fs.exists(attempt.retry)
    if end is None:
        return AttemptRow(
            attempt=attempt.number,
            worker=claim.worker if claim else "",
            host=claim.host if claim else "",
            started_at=_started(attempt, None),
            retried=retried,
        )
    return AttemptRow(
        attempt=attempt.number,
        reason=end.reason.value,
        message=end.message,
        hint=end.hint,
        phase=end.phase,
        step=end.step,
        worker=end.worker or (claim.worker if claim else ""),
        host=end.host or (claim.host if claim else ""),
        started_at=end.started_at or _started(attempt, end),
        ended_at=end.ended_at or None,
        wall_s=end.wall_s or None,
        overhead_s=end.overhead_s,
        phases=end.phases,
        retried=retried,
    )
