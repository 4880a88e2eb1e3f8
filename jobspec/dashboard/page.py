"""Render the report: one self-contained HTML page that needs no network.

`render` makes the page of `jobspec report`, `content` the part that `jobspec serve` refreshes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module, resources
from typing import TYPE_CHECKING, Any

import msgspec

from jobspec.dashboard.charts import PHASE_COLOURS, Figure, figures
from jobspec.dashboard.runs import DashboardRun, read
from jobspec.errors import JobspecError
from jobspec.monitoring import reasons, status, workers
from jobspec.records import base as records
from jobspec.records.base import State
from jobspec.results import table
from jobspec.spec import builder

if TYPE_CHECKING:
    from jobspec.queue.job import Job
    from jobspec.queue.queue import Queue


class PhaseRow(msgspec.Struct, frozen=True, kw_only=True):
    """Hours and GPU hours of all runs in one phase, and the share that was lost."""

    phase: str
    hours: float
    gpu_hours: float
    lost_frac: float


def render(queue: Queue, jobs: Sequence[Job], *, live: bool = False) -> str:
    """Render the whole page.

    Args:
        jobs: the jobs to report on.
        live: the page refreshes itself from the server that it came from.

    Raises:
        JobspecError: jinja2 or plotly is not installed.
    """
    page = _environment().get_template("page.html.j2")
    return page.render(
        **_values(queue, jobs), plotly=_plotly(), style=_text("style.css"), script=_text("page.js"),
        live=live,
    )  # fmt: skip


def content(queue: Queue, jobs: Sequence[Job]) -> str:
    """Render the content of the page's `main` element."""
    return _environment().get_template("content.html.j2").render(**_values(queue, jobs))


def _values(queue: Queue, jobs: Sequence[Job]) -> dict[str, Any]:
    runs = read(jobs, workers.rows(queue))
    counts = status.count_by_state(jobs)
    return {
        "root": str(queue.paths.root),
        "made_at": records.utc_now()[:16].replace("T", " "),
        "counts": {state: count for state, count in counts.items() if count},
        "runs": runs,
        "results": table.rows(_readable(jobs, runs)),
        "benchmarks": list(dict.fromkeys(name for run in runs for name in run.scores)),
        "figures": figures(runs),
        "phases": phases(runs),
        "why": _why,
        "rate": builder.spell_rate,
    }


def _readable(jobs: Iterable[Job], runs: Sequence[DashboardRun]) -> list[Job]:
    known = {run.row.job for run in runs if run.spec is not None}
    return [job for job in jobs if job.id in known]


def _why(run: DashboardRun) -> str:
    """Why a run has no result: its reason, or why its earlier attempts ended."""
    row = run.row
    if row.state == State.FAILED and row.reason is not None:
        why = reasons.why(row.reason, row.reason_count, row.reason_limit)
        return f"{why}: {run.message}" if run.message else why
    return ", ".join(
        f"{ended.attempt}: {reasons.REASONS.get(ended.reason, ended.reason)}"
        for ended in row.attempts
    )


def phases(runs: Iterable[DashboardRun]) -> list[PhaseRow]:
    """One row per phase that took any time, and one for all phases."""
    usage = [each for run in runs for each in run.usage]
    rows = [_phase_row(name, [s for s in usage if s.phase == name]) for name in PHASE_COLOURS]
    return [row for row in [*rows, _phase_row("all", usage)] if row.hours > 0]


def _phase_row(name: str, usage: Sequence[Any]) -> PhaseRow:
    wall_s = sum(each.wall_s for each in usage)
    return PhaseRow(
        phase=name,
        hours=wall_s / 3600,
        gpu_hours=sum(each.gpu_h for each in usage),
        lost_frac=sum(each.lost_s for each in usage) / wall_s if wall_s else 0.0,
    )


def _environment() -> Any:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise _missing("jinja2") from error
    environment: Any = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["figure"] = _embedded
    return environment


def _embedded(figure: Figure) -> Any:
    """A figure's JSON for a script element, escaped so that it cannot end the element."""
    from markupsafe import Markup

    data = msgspec.json.encode({"data": figure.data, "layout": figure.layout}).decode()
    for letter in "<>&":
        data = data.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(data)


def _plotly() -> Any:
    """The JavaScript library that the plotly package contains."""
    try:
        from markupsafe import Markup

        offline: Any = import_module("plotly.offline")  # it has no types
    except ModuleNotFoundError as error:
        raise _missing("plotly") from error
    return Markup(offline.get_plotlyjs())


def _missing(package: str) -> JobspecError:
    return JobspecError(
        f"the report needs {package}, which is not installed",
        hint='pip install "jobspec[report]"',
    )


def _text(name: str) -> str:
    return resources.files("jobspec.dashboard").joinpath(name).read_text()
