"""What the report shows of each run, read from its files: curves, scores, time, origin."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from jobspec.errors import JobspecError
from jobspec.monitoring import gpu_hours, status
from jobspec.monitoring.gpu_hours import PhaseUsage
from jobspec.monitoring.status import JobRow
from jobspec.monitoring.workers import WorkerRow
from jobspec.records import base as records
from jobspec.records import metrics
from jobspec.records.base import UNSET, State
from jobspec.records.manifest import Manifest
from jobspec.records.phases import EVAL
from jobspec.records.reports import ScoringProtocol
from jobspec.results import table
from jobspec.results.table import Score
from jobspec.spec.sources import list_sources

if TYPE_CHECKING:
    from jobspec.queue.job import Job
    from jobspec.spec.schema import JobSpec

MOST_POINTS = 400  # per curve; of more steps, each point is the mean of several


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A point of a curve. `value` is a mean over several steps, `step` the last of them."""

    epoch: float
    step: int
    value: float


class EpochScores(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of one of a run's models: the weights after an epoch, or the final ones."""

    epoch: float
    scores: dict[str, Score]


class DashboardRun(msgspec.Struct, frozen=True, kw_only=True):
    """One job. `spec` is null if it is damaged; then only `row` is known."""

    row: JobRow
    spec: Any
    label: str
    loss: list[Point]
    eval_loss: list[Point]
    source_losses: dict[str, list[Point]]
    scores: dict[str, Score]
    kind: str
    by_epoch: list[EpochScores]
    usage: list[PhaseUsage]
    origin: list[tuple[str, str]]
    message: str = ""


def read(jobs: Iterable[Job], worker_rows: Sequence[WorkerRow] = ()) -> list[DashboardRun]:
    """The jobs' runs, sorted by model and learning rate, each with a unique label."""
    runs = sorted((_run(job, worker_rows) for job in jobs), key=_order)
    names = [run.label for run in runs]
    return [
        run
        if names.count(run.label) == 1
        else msgspec.structs.replace(run, label=f"{run.label} {run.row.job[-10:]}")
        for run in runs
    ]


def _order(run: DashboardRun) -> tuple[str, float, str, str]:
    spec: JobSpec | None = run.spec
    if spec is None:
        return "", 0.0, run.label, run.row.job
    rate = spec.train.learning_rate if spec.train is not None else 0.0
    return spec.model.name, rate, run.label, run.row.job


def _run(job: Job, worker_rows: Sequence[WorkerRow]) -> DashboardRun:
    row = status.job_row(job, worker_rows)
    try:
        spec = job.spec
    except (JobspecError, OSError):
        spec = None
    scored = next(iter(table.rows([job])), None) if spec is not None else None
    history = metrics.history(job.paths, "train")
    return DashboardRun(
        row=row,
        spec=spec,
        label=row.name,
        loss=thinned(list(_points(history, "loss"))),
        eval_loss=list(_points(history, "eval_loss")),
        source_losses={
            source.name: list(_points(history, f"eval_loss/{source.name}"))
            for source in (list_sources(spec.data) if spec is not None and spec.data else ())
            if source.name
        },
        scores=scored.scores if scored is not None else {},
        kind=scored.kind if scored is not None else "tuned",
        by_epoch=list(_by_epoch(job, scored, spec)),
        usage=gpu_hours.phase_usage(job),
        origin=list(_origin(job, spec)),
        message=job.end.message if job.state is State.FAILED and job.end is not None else "",
    )


def _points(rows: Iterable[metrics.Row], name: str) -> Iterator[Point]:
    """The values of a metric, without those that are not finite numbers."""
    for row in rows:
        value, step = _number(row.get(name)), _number(row.get("step"))
        if value is not None and step is not None:
            epoch = _number(row.get("epoch"))
            yield Point(epoch=step if epoch is None else epoch, step=int(step), value=value)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points, each the mean of equally many neighbours, at the step of the last."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [
        msgspec.structs.replace(
            group[-1], value=math.fsum(point.value for point in group) / len(group)
        )
        for group in groups
    ]


def _by_epoch(
    job: Job, scored: table.ResultRow | None, spec: JobSpec | None
) -> Iterator[EpochScores]:
    report = EVAL.read(job.paths.attempt(job.attempt))
    models = report.checkpoints or () if report is not None else ()
    for model in models:
        if model.epoch is not None:
            yield EpochScores(epoch=model.epoch, scores=table.scores(model.metrics))
    if not models and scored is not None:
        epochs = spec.train.num_train_epochs if spec is not None and spec.train else 0.0
        yield EpochScores(epoch=epochs, scores=scored.scores)


def _origin(job: Job, spec: JobSpec | None) -> Iterator[tuple[str, str]]:
    """Where a run comes from: everything that must be equal to reproduce it."""
    yield "job", job.id
    if spec is not None:
        revision = spec.model.revision
        yield "model", spec.model.name + (f" @ {revision}" if revision else "")
        for source in list_sources(spec.data) if spec.data is not None else ():
            name = f"source {source.name}" if source.name else "data"
            yield name, f"{source.path}, SHA-256 {(source.sha256 or '')[:16]}…"
    manifest = records.read(job.paths.attempt(job.attempt).manifest, Manifest)
    if manifest is not None:
        yield from _provenance(manifest)
    result = status.result(job)
    for benchmark, protocol in (result.protocol if result is not None else {}).items():
        yield f"protocol of {benchmark}", _protocol(protocol)


def _provenance(manifest: Manifest) -> Iterator[tuple[str, str]]:
    code, device = manifest.code, manifest.device
    if code.commit:
        dirty = ", with uncommitted changes" if code.dirty else ""
        yield "code", f"{code.commit[:12]}{dirty}"
    if device.count:
        yield "devices", f"{device.count}× {device.name or device.kind}"
    for name in ("host", "worker", "image", "python", "kernel"):
        if value := getattr(manifest, name):
            yield name, value
    if manifest.packages:
        packages = manifest.packages.items()
        yield "packages", ", ".join(f"{name} {version}" for name, version in packages)


def _protocol(protocol: ScoringProtocol) -> str:
    names = ("protocol", "k", "questions", "shots", "temperature", "top_p", "max_gen_toks")
    settings = [(name, getattr(protocol, name)) for name in names]
    shown = [f"{name} {value}" for name, value in settings if value not in (None, UNSET)]
    digest = protocol.prompt_sha256
    return ", ".join([*shown, *([f"prompts {digest[:12]}…"] if digest else [])])
