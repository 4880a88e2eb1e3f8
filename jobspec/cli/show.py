"""`jobspec show`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import click
import msgspec

from jobspec.cli.common import common, complete_jobs, open_queue, wants_json
from jobspec.cli.output import Cell, Column, Table, duration, emit_struct
from jobspec.cli.status_view import COLOURS, figures, state_and_phase
from jobspec.monitoring import reasons, status, workers
from jobspec.monitoring.status import AttemptRow, JobReport, JobRow
from jobspec.records.base import State
from jobspec.spec.schema import DataSpec, JobSpec, ModelSpec

_DEFAULTS = JobSpec(name="x", model=ModelSpec(name=""), data=DataSpec(path=""))


@click.command()
@click.argument("job", shell_complete=complete_jobs)
@common
def show(job: str) -> None:
    """Show all that is known of one job: state, attempts and why they ended, scores, spec.

    \b
    jobspec show qwen3-8b-lr1e-5-0123456789
    jobspec show qwen
    """
    queue = open_queue()
    told = status.job_report(queue.job(job), workers.rows(queue))
    if wants_json():
        return emit_struct(told)
    for line in _lines(told):
        click.echo(line)
    return None


def _lines(told: JobReport) -> list[str]:
    row = told.job
    state = click.style(row.state, fg=COLOURS[State(row.state)], bold=True)
    lines = [f"{click.style(row.job, bold=True)}  {state}"]
    lines += _facts(told)
    if told.attempts:
        lines += ["", *_attempt_table(told).lines()]
    if told.result is not None and told.result.metrics:
        lines += ["", *_metric_table(told.result.metrics).lines()]
    if told.manifest is not None:
        lines += ["", *_provenance(told.manifest).lines()]
    return [*lines, "", *_spec_lines(told)]


def _provenance(manifest: dict[str, Any]) -> Table:
    """What the newest attempt ran: code, image, packages, device, inputs, engine."""
    table = Table([Column("provenance"), Column("value")])
    for name, value in manifest.items():
        if name == "packages":
            table.add(name, ", ".join(f"{package} {found}" for package, found in value.items()))
        elif isinstance(value, dict):
            for inner, fact in cast("dict[str, Any]", value).items():
                table.add(f"{name}.{inner}", _spelled(fact))
        elif value is not None:
            table.add(name, _spelled(value))
    return table


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _spec_lines(told: JobReport) -> list[str]:
    table = Table([Column("spec, where not by default"), Column("value")])
    for place, value in _differences(told.spec, _DEFAULTS, ""):
        table.add(place, value)
    return table.lines()


def _differences(given: Any, default: Any, place: str) -> Iterator[tuple[str, str]]:
    """(dotted field, its JSON) of everything in `given` that is not the default."""
    if isinstance(given, msgspec.Struct):
        for name in given.__struct_fields__:
            inner, below = getattr(default, name, msgspec.UNSET), f"{place}.{name}".lstrip(".")
            yield from _differences(getattr(given, name), inner, below)
    elif given != default:
        yield place, msgspec.json.encode(given).decode()


def _facts(told: JobReport) -> list[str]:
    row = told.job
    facts = {
        "enqueued": f"{_moment(row.enqueued_at)}, priority {told.priority}",
        "started": _moment(row.started_at),
        "now": _now(row),
        "eta": duration(row.eta_s),
        "ended": _moment(row.ended_at),
        "losses": ", ".join(
            reasons.why(loss.reason, loss.count, loss.limit) for loss in told.losses
        ),
        "worker": " on ".join(part for part in (row.worker, row.host) if part),
        "directory": told.dir,
        "logs": f"jobspec logs {row.job}" if told.attempts else "",
    }
    return [
        f"  {click.style(f'{name:<10}', dim=True)} {text}" for name, text in facts.items() if text
    ]


def _attempt_table(told: JobReport) -> Table:
    columns = ("attempt", "ended by", "phase", "step", "took", "overhead", "phases", "host")
    table = Table([Column(title, 9 if n < 5 else 8 - n) for n, title in enumerate(columns)])
    for attempt in told.attempts:
        runs = told.job.state == State.RUNNING and attempt.attempt == told.job.attempt
        reason = "still running" if runs else attempt.reason or _unsaid(told, attempt)
        phases = ", ".join(
            f"{phase.phase} {'kept' if phase.kept else duration(phase.wall_s)}"
            for phase in attempt.phases
        )
        table.add(
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
    return table


def _unsaid(told: JobReport, attempt: AttemptRow) -> str:
    """Why an attempt ended that left no word: it was cancelled, or lost."""
    last = attempt.attempt == told.job.attempt
    return State.CANCELLED.value if last and told.job.state == State.CANCELLED else "lost"


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


def _metric_table(metrics: dict[str, float | None]) -> Table:
    table = Table([Column("metric"), Column("value", right=True)])
    for name, value in metrics.items():
        table.add(name, "-" if value is None else f"{value:.6g}")
    return table


def _moment(then: str | None) -> str:
    if not then:
        return ""
    age = workers.age_s(then)
    ago = f" ({duration(age)} ago)" if age is not None else ""
    return f"{then[:19].replace('T', ' ')} UTC{ago}"
