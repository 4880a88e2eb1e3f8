"""`jobspec show`: everything about one job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click
import msgspec

from jobspec.cli.common import common, complete_jobs, open_queue, wants_json
from jobspec.cli.output import Cell, Column, Table, duration, emit_struct
from jobspec.cli.status_view import COLOURS, figures, state_and_phase
from jobspec.monitoring import cost as costs
from jobspec.monitoring import reasons, status, workers
from jobspec.monitoring.status import AttemptRow, JobReport, JobRow
from jobspec.records.attempt import Result
from jobspec.records.base import State
from jobspec.records.manifest import Manifest
from jobspec.records.mixture import TrainedSource
from jobspec.results import table
from jobspec.results.table import ResultRow, Score
from jobspec.spec.schema import DataSpec, JobSpec, ModelSpec
from jobspec.storage.layout import AttemptPaths

_DEFAULTS = JobSpec(name="x", model=ModelSpec(name=""), data=DataSpec(path=""))


@click.command()
@click.argument("job", shell_complete=complete_jobs)
@click.option(
    "--all", "everything", is_flag=True, help="Also print every metric and what the job ran with."
)
@common
def show(job: str, everything: bool) -> None:
    """Show one job: state, losses, scores, attempts and why they ended, settings.

    \b
    jobspec show qwen3-8b-lr1e-5-0123456789
    jobspec show qwen

    JOB is an id or a unique prefix of one.
    """
    queue = open_queue(write=False)
    found = queue.job(job)
    report = status.job_report(found, workers.rows(queue))
    report = msgspec.structs.replace(report, cost=costs.cost(found))
    if wants_json():
        return emit_struct(report)
    for line in _lines(report, table.rows([found]), everything=everything):
        click.echo(line)
    return None


def _lines(report: JobReport, results: list[ResultRow], *, everything: bool) -> list[str]:
    row = report.job
    state = click.style(row.state, fg=COLOURS[State(row.state)], bold=True)
    lines = [f"{click.style(row.job, bold=True)}  {state}"]
    lines += _facts(report)
    scored = {name: score for row in results for name, score in row.scores.items()}
    if scored:
        lines += ["", *_score_table(scored).lines()]
    if report.attempts:
        lines += ["", *_attempt_table(report).lines()]
    if report.result is not None and report.result.prepare and report.result.prepare.sources:
        lines += ["", *_source_table(report.result).lines()]
    lines += ["", *_spec_lines(report)]
    if not everything:
        if report.manifest is not None:
            lines += ["", click.style("--all also prints metrics, versions and inputs", dim=True)]
        return lines
    if report.result is not None and report.result.metrics:
        lines += ["", *_metric_table(report.result.metrics).lines()]
    if report.manifest is not None:
        lines += ["", *_provenance(report.manifest).lines()]
    return lines


def _provenance(manifest: Manifest) -> Table:
    """What the newest attempt ran with: code, image, packages, device, inputs, engine."""
    drawn = Table([Column("provenance"), Column("value")])
    for name, value in msgspec.to_builtins(manifest).items():
        if name == "packages":
            drawn.add(name, ", ".join(f"{package} {release}" for package, release in value.items()))
        elif isinstance(value, dict):
            for inner, fact in cast("dict[str, Any]", value).items():
                drawn.add(f"{name}.{inner}", _spelled(fact))
        elif value is not None:
            drawn.add(name, _spelled(value))
    return drawn


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _spec_lines(report: JobReport) -> list[str]:
    drawn = Table([Column("spec, unless default"), Column("value")])
    for name, value in _differences(report.spec, _DEFAULTS, ""):
        drawn.add(name, value)
    return drawn.lines()


def _differences(given: Any, default: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """(dotted field, its JSON) of everything in `given` that differs from the default."""
    if isinstance(given, msgspec.Struct):
        for name in given.__struct_fields__:
            inner, below = getattr(default, name, msgspec.UNSET), f"{prefix}.{name}".lstrip(".")
            yield from _differences(getattr(given, name), inner, below)
    elif given != default:
        yield prefix, msgspec.json.encode(given).decode()


def _facts(report: JobReport) -> list[str]:
    row = report.job
    facts = {
        "enqueued": f"{_moment(row.enqueued_at)}, priority {report.priority}",
        "started": _moment(row.started_at),
        "now": _now(row),
        "eta": duration(row.eta_s),
        "ended": _moment(row.ended_at),
        "losses": ", ".join(
            reasons.why(loss.reason, loss.count, loss.limit) for loss in report.losses
        ),
        "worker": " on ".join(part for part in (row.worker, row.host) if part),
        "warning": reasons.loss_rise(row.loss_rise) if row.loss_rise else "",
        "note": row.note or "",
        "loss": _losses(report.result),
        "trained": _trained(report.result),
        "cost": costs.spelled(report.cost) if report.cost is not None else "",
        "model": _model(report),
        "directory": report.dir,
        "logs": f"jobspec logs {row.job}" if report.attempts else "",
    }
    return [
        f"  {click.style(f'{name:<10}', dim=True)} {text}" for name, text in facts.items() if text
    ]


def _losses(result: Result | None) -> str:
    """`training 5.81 → 0.0012, held out 5.2 → 0.41`."""
    train = result.train if result is not None else None
    if not train:
        return ""
    pairs = {
        "training": (train.loss_first, train.loss),
        "held out": (train.eval_loss_first, train.eval_loss),
    }
    known = {name: pair for name, pair in pairs.items() if pair[1] is not None}
    return ", ".join(f"{name} {_loss(a)} → {_loss(b)}" for name, (a, b) in known.items())


def _trained(result: Result | None) -> str:
    """`190 steps, 10 epochs, 123,456 tokens in 50s`."""
    train = result.train if result is not None else None
    if not train:
        return ""
    epochs = "" if train.epochs is None else f"{train.epochs:g} epochs, "
    return f"{train.steps:,} steps, {epochs}{train.tokens:,} tokens in {duration(train.train_s)}"


def _model(report: JobReport) -> str:
    """The directory of the trained model."""
    result = report.result
    if result is None or not result.train or not result.train.model_dir:
        return ""
    return str(Path(report.dir) / AttemptPaths.FINAL_MODEL)


def _score_table(scored: dict[str, Score]) -> Table:
    columns = ("score", "95 % interval", "questions", "cut off")
    drawn = Table(
        [Column("benchmark"), Column("metric"), *(Column(c, right=True) for c in columns)]
    )
    for name, score in scored.items():
        ends = score.interval
        drawn.add(
            name,
            score.metric,
            f"{score.value:.3f}",
            "" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}",
            "" if score.questions is None else f"{score.questions:,}",
            "" if score.truncated_frac is None else f"{score.truncated_frac:.1%}",
        )
    return drawn


def _attempt_table(report: JobReport) -> Table:
    columns = ("attempt", "ended by", "phase", "step", "took", "overhead", "phases", "host")
    drawn = Table([Column(title, 9 if n < 5 else 8 - n) for n, title in enumerate(columns)])
    for attempt in report.attempts:
        runs = report.job.state == State.RUNNING and attempt.attempt == report.job.attempt
        reason = "still running" if runs else attempt.reason or _missing_reason(report, attempt)
        phases = ", ".join(
            f"{phase.phase} {'kept' if phase.kept else duration(phase.wall_s)}"
            for phase in attempt.phases
        )
        drawn.add(
            str(attempt.attempt),
            reasons.REASONS.get(reason, reason),
            attempt.phase or "",
            "" if attempt.step is None else str(attempt.step),
            duration(attempt.wall_s),
            "" if attempt.overhead_s is None else f"{attempt.overhead_s:.1f}s",
            phases,
            attempt.host,
            notes=_attempt_notes(attempt),
        )
    return drawn


def _missing_reason(report: JobReport, attempt: AttemptRow) -> str:
    """Why an attempt ended that has no `end.json`: it was cancelled or lost."""
    last = attempt.attempt == report.job.attempt
    return State.CANCELLED.value if last and report.job.state == State.CANCELLED else "lost"


def _now(row: JobRow) -> str:
    if row.state != State.RUNNING:
        return ""
    return ", ".join(part for part in (state_and_phase(row), figures(row)) if part)


def _attempt_notes(attempt: AttemptRow) -> list[Cell]:
    notes: list[Cell] = []
    if attempt.message and attempt.reason != "succeeded":
        notes.append(Cell(attempt.message, "red" if attempt.reason == "failed" else None))
    if attempt.hint:
        notes.append(Cell(f"hint: {attempt.hint}", "cyan"))
    if attempt.retried:
        notes.append(Cell("retried by hand", dim=True))
    return notes


def _source_table(result: Result) -> Table:
    """The sources of a mixture: what was trained on, and the held-out loss before and after."""
    columns = ("rows in an epoch", "repeat", "held out", "trained tokens", "held-out loss")
    drawn = Table([Column("source"), *(Column(title, right=True) for title in columns)])
    trained = result.train.sources if result.train else {}
    for source in result.prepare.sources if result.prepare else ():
        found = trained.get(source.name, TrainedSource())
        drawn.add(
            source.name,
            f"{source.train.rows:,}",
            f"{source.repeat:.4g}",
            f"{source.eval.rows:,}",
            f"{found.trained_tokens:,}",
            f"{_loss(found.eval_loss_first)} → {_loss(found.eval_loss)}",
        )
    return drawn


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _metric_table(metrics: dict[str, float | None]) -> Table:
    drawn = Table([Column("metric"), Column("value", right=True)])
    for name, value in metrics.items():
        drawn.add(name, "-" if value is None else f"{value:.6g}")
    return drawn


def _moment(then: str | None) -> str:
    if not then:
        return ""
    age = workers.age_s(then)
    ago = f" ({duration(age)} ago)" if age is not None else ""
    return f"{then[:19].replace('T', ' ')} UTC{ago}"
