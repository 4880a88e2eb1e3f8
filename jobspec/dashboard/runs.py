"""One row of the page's table per run: its state, settings, losses, time and scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from jobspec.errors import JobspecError
from jobspec.monitoring import losses, reasons, status, workers
from jobspec.monitoring.losses import finite
from jobspec.monitoring.status import JobRow
from jobspec.monitoring.workers import WorkerRow
from jobspec.queue.job import Job
from jobspec.records import base as records
from jobspec.records import metrics
from jobspec.records.attempt import ClaimRecord, End, Progress, Result
from jobspec.records.base import State
from jobspec.records.manifest import Manifest
from jobspec.results import settings, table
from jobspec.results.settings import Setting
from jobspec.results.table import Score
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import AttemptPaths

_NEWEST_BYTES = 2048  # of the metrics of a run that is watched: some five rows


class ShownScore(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A score with its 95 % interval over questions, or else over samples."""

    value: float
    metric: str
    low: float | None = None
    high: float | None = None
    lower_is_better: bool = False
    truncated_frac: float | None = None
    mean_response_tokens: float | None = None
    questions: int | None = None
    k: int | None = None


class RunRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the page's overview shows of one run. Unknown values are left out.

    Attributes:
        groups: of the spec; a damaged spec has none.
        settings: those that differ from their defaults, by dotted name.
        why: why a run failed, or why its earlier attempts ended.
        warning: what is suspicious about a run that succeeded.
        hours: of wall time, over all attempts; `gpu_hours` is 0 on the CPU.
        failed: the benchmarks without a score, and why.
    """

    id: str
    name: str
    state: str
    attempt: int
    enqueued_at: str
    groups: list[str] = []
    settings: dict[str, Setting] = {}
    phase: str | None = None
    progress: float | None = None
    done: float | None = None
    total: float | None = None
    unit: str | None = None
    eta_s: float | None = None
    worker: str | None = None
    host: str | None = None
    user: str | None = None
    priority: int = 0
    waits_for: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    why: str = ""
    message: str = ""
    hint: str | None = None
    warning: str = ""
    loss: float | None = None
    eval_loss: float | None = None
    tokens: float | None = None
    tokens_per_second: float | None = None
    hours: float | None = None
    gpu_hours: float | None = None
    scores: dict[str, ShownScore] = {}
    failed: dict[str, str] = {}


def read_row(job: Job, worker_rows: Sequence[WorkerRow] = ()) -> RunRow:
    """Read what the overview shows of a job."""
    shown, spec = status.job_row(job, worker_rows), read_spec(job)
    finished = status.result(job)
    scored = next(iter(table.rows([job])), None) if spec is not None else None
    end = job.end if job.state in records.FINAL else None
    hours, gpu_hours = _time(job)
    loss, eval_loss, tokens = losses.last(job, finished)
    return RunRow(
        id=job.id,
        name=shown.name,
        state=shown.state,
        attempt=shown.attempt,
        enqueued_at=job.enqueued_at,
        groups=settings.groups(spec) if spec is not None else [],
        settings=settings.changed(spec) if spec is not None else {},
        phase=shown.phase,
        progress=shown.progress,
        done=shown.done,
        total=shown.total,
        unit=shown.unit,
        eta_s=shown.eta_s,
        worker=shown.worker,
        host=shown.host,
        user=shown.user,
        priority=job.priority,
        waits_for=shown.waits_for,
        started_at=shown.started_at,
        ended_at=shown.ended_at,
        why=_why(shown),
        message=end.message if end is not None and job.state is State.FAILED else "",
        hint=end.hint if end is not None and job.state is State.FAILED else None,
        warning=reasons.loss_rise(shown.loss_rise) if shown.loss_rise is not None else "",
        loss=loss,
        eval_loss=eval_loss,
        tokens=tokens,
        tokens_per_second=_speed(shown, finished),
        hours=hours,
        gpu_hours=gpu_hours,
        scores=show_scores(scored.scores) if scored is not None else {},
        failed=scored.failed if scored is not None else {},
    )


def go_on(row: RunRow, job: Job) -> RunRow:
    """The row of a running job, as its progress and its newest metrics say now."""
    attempt = job.paths.attempt(job.attempt)
    told = records.read(attempt.progress, Progress)
    if told is None:
        return row
    rows = list(metrics.tail(attempt.metrics, _NEWEST_BYTES))
    hours, gpu_hours = _time(job)
    loss, eval_loss, tokens = losses.of_rows(rows)
    return msgspec.structs.replace(
        row,
        phase=told.phase or None,
        progress=told.fraction,
        done=told.done,
        total=told.total,
        unit=told.unit,
        eta_s=told.eta_s,
        loss=row.loss if loss is None else loss,
        eval_loss=row.eval_loss if eval_loss is None else eval_loss,
        tokens=row.tokens if tokens is None else tokens,
        tokens_per_second=finite(metrics.latest(rows, "tokens_per_second")),
        hours=hours,
        gpu_hours=gpu_hours,
    )


def read_spec(job: Job) -> JobSpec | None:
    """The spec of a job; None if it is damaged."""
    try:
        return job.spec
    except (JobspecError, OSError):
        return None


def with_workers(row: RunRow, job: Job, worker_rows: Sequence[WorkerRow]) -> RunRow:
    """The same row with what depends on the workers: whether a pending job has to wait for one."""
    if job.state is not State.PENDING:
        return row
    alive = [each for each in worker_rows if each.alive]
    return msgspec.structs.replace(row, waits_for=workers.unmet_need(job, alive))


def show_scores(scores: dict[str, Score]) -> dict[str, ShownScore]:
    """The scores as the page shows them."""
    return {name: _shown(score) for name, score in scores.items()}


def _shown(score: Score) -> ShownScore:
    low, high = score.interval or (None, None)
    return ShownScore(
        value=score.value,
        metric=score.metric,
        low=low,
        high=high,
        lower_is_better=not score.higher_is_better,
        truncated_frac=score.truncated_frac,
        mean_response_tokens=score.mean_response_tokens,
        questions=score.questions,
        k=score.k,
    )


def _why(row: JobRow) -> str:
    """Why a run failed; of other runs, why their earlier attempts ended."""
    if row.state == State.FAILED and row.reason is not None:
        used_up = row.reason_count == row.reason_limit
        return reasons.why(row.reason, row.reason_count if used_up else None, row.reason_limit)
    ended = (
        f"{each.attempt}: {reasons.REASONS.get(each.reason, each.reason)}" for each in row.attempts
    )
    return ", ".join(ended)


def _speed(row: JobRow, finished: Result | None) -> float | None:
    if finished is not None:
        return finished.train.tokens_per_second if finished.train else None
    return finite(row.metrics.get("tokens_per_second"))


def _time(job: Job) -> tuple[float | None, float | None]:
    """Hours and GPU hours of all attempts of a job."""
    found = [_attempt_time(attempt) for attempt in metrics.attempts(job.paths)]
    known = [(hours, gpus) for hours, gpus in found if hours is not None]
    if not known:
        return None, None
    return sum(hours for hours, _ in known), sum(hours * gpus for hours, gpus in known)


def _attempt_time(attempt: AttemptPaths) -> tuple[float | None, int]:
    manifest = records.read(attempt.manifest, Manifest)
    gpus = 0
    if manifest is not None and manifest.device.kind != "cpu":
        gpus = manifest.device.count * (manifest.plan.nodes if manifest.plan is not None else 1)
    end = records.read(attempt.end, End)
    if end is not None:
        return (end.wall_s / 3600 if end.wall_s else None), gpus
    claim = records.read(attempt.claim, ClaimRecord)
    age = workers.age_s(claim.claimed_at) if claim is not None else None
    last = _last_sign(attempt)
    return (None if age is None else max(0.0, age - last) / 3600), gpus


def _last_sign(attempt: AttemptPaths) -> float:
    """Seconds since an attempt without an end wrote its progress."""
    try:
        written = attempt.progress.stat().st_mtime
    except OSError:
        return 0.0
    return max(0.0, datetime.now(UTC).timestamp() - written)


def in_order(jobs: Iterable[Job]) -> list[Job]:
    """The jobs in the order in which they were enqueued. A run's colour is its place in it."""
    return sorted(jobs, key=lambda job: (job.enqueued_at, job.id))
