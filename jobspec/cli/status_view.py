"""Render the records of jobspec.monitoring.status as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from jobspec.cli.output import Cell, Column, Table, bar, duration, plural, terminal_width
from jobspec.monitoring import reasons, workers
from jobspec.monitoring.status import EndedAttemptRow, JobRow, Status
from jobspec.monitoring.workers import WorkerRow
from jobspec.queue.job import Job
from jobspec.records.attempt import End
from jobspec.records.base import State
from jobspec.results import table
from jobspec.results.table import short

COLOURS = {
    State.PENDING: None,
    State.RUNNING: "cyan",
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.CANCELLED: "yellow",
}
WORKERS = 12  # rows of workers; `jobspec workers` shows all
_WORKER_COLOURS = {"silent": "red", "busy": "cyan", "draining": "yellow"}
_JOB_COLUMNS = (
    Column("job"),
    Column("state"),
    Column("", 4),
    Column("eta", 7, right=True),
    Column("figures", 6, least=15),
    Column("try", 5, right=True),
    Column("user", 5),
    Column("host", 3),
    Column("worker", 1),
)
_WORKER_COLUMNS = (
    Column("worker"),
    Column("state"),
    Column("busy", 8, right=True),
    Column("slurm", 7),
    Column("host", 3),
    Column("gpus", 4),
    Column("job", 5, least=14),
    Column("phase", 2),
    Column("seen", 6, right=True),
)
_FIGURES = ("loss", "tokens_per_second", "eval_loss")


def lines(now: Status, jobs: Sequence[Job], height: int | None = None) -> list[str]:
    """The whole screen.

    Args:
        now: the status to show.
        jobs: the jobs of its rows.
        height: limit of lines, met by cutting the table of jobs; None for no limit.
    """
    top, foot = _headline(now), list(_worker_lines(now))
    if now.nothing_runs is not None:
        top.append(click.style(f"no job is claimed: {now.nothing_runs}", fg="yellow"))
    table = ["", *job_table(now.jobs, jobs).lines()] if now.jobs else []
    if now.left_out:
        rest = ", ".join(f"{count:,} {state}" for state, count in now.left_out.items())
        foot = [click.style(f"and {rest} more (--all, --state)", dim=True), *foot]
    if height is not None:
        foot = foot[: max(2, height // 3)]
        table = cut(table, height - len(top) - len(foot))
    return [*top, *table, *foot][:height]


def cut(drawn: list[str], room: int) -> list[str]:
    """The first lines of a table, and how many lines it has."""
    if len(drawn) <= room:
        return drawn
    if room < 1:
        return []
    return [*drawn[: room - 1], click.style(f"… {len(drawn)} lines", dim=True)]


def _headline(now: Status) -> list[str]:
    """The root and the counts, on two lines if they do not fit on one."""
    parts = [
        click.style(f"{count:,} {state}", fg=COLOURS[State(state)])
        for state, count in now.counts.items()
        if count
    ]
    total = plural(sum(now.counts.values()), "job")
    counts = f"{total}: {', '.join(parts)}" if parts else total
    root = click.style(now.root, bold=True)
    one = f"{root}  {counts}"
    return [one] if len(click.unstyle(one)) <= terminal_width() else [root, counts]


def job_table(rows: Sequence[JobRow], jobs: Sequence[Job]) -> Table:
    """One row per job, with notes on why it failed, was retried or waits.

    The users are shown if there are several.
    """
    table = Table(_JOB_COLUMNS)
    several_users = len({row.user for row in rows if row.user}) > 1
    for row, job in zip(rows, jobs, strict=True):
        state = State(row.state)
        table.add(
            row.job,
            Cell(state_and_phase(row), COLOURS[state], dim=state is State.CANCELLED),
            "" if row.progress is None else bar(row.progress),
            duration(row.eta_s),
            figures(row),
            str(row.attempt) if row.attempt > 1 else "",
            (row.user or "") if several_users else "",
            row.host or "",
            row.worker or "",
            notes=_notes(row, job.end if row.reason in reasons.LOSSES else None),
        )
    return table


def state_and_phase(row: JobRow) -> str:
    """The state with progress or duration, like `running train 43%` or `succeeded 2h 05m`."""
    if row.state == State.RUNNING:
        progress = "" if row.progress is None else f"{row.progress:4.0%}"
        return f"{row.state} {row.phase or 'starting'}{progress}"
    started, ended = workers.age_s(row.started_at), workers.age_s(row.ended_at)
    length = duration(started - ended) if started is not None and ended is not None else ""
    return f"{row.state} {length}".rstrip()


def figures(row: JobRow) -> str:
    """The loss and speed of a running job, the scores of a finished one."""
    scores = table.main_metrics(row.metrics)
    if scores:
        return ", ".join(f"{short(name)} {value:.3f}" for name, (_, value) in scores.items())
    names = [name for name in _FIGURES if name in row.metrics] or list(row.metrics)
    known = [(name, row.metrics.get(name)) for name in names]
    parts = [_figure(name, value) for name, value in known if value is not None]
    if not parts and row.done is not None and row.total:
        parts = [f"{row.done:,.0f}/{row.total:,.0f} {row.unit or ''}".rstrip()]
    return ", ".join(parts[:3])


def _figure(name: str, value: float) -> str:
    return f"{value:,.0f} tok/s" if name == "tokens_per_second" else f"{name} {value:.4g}"


def _notes(row: JobRow, end: End | None) -> list[Cell]:
    """Why a job failed and what to do, or why it was put back into the queue."""
    notes = [Cell(row.waits_for, "yellow")] if row.waits_for else []
    if row.directory_missing:
        notes.append(Cell("its directory was deleted: run `jobspec fsck`", "yellow"))
    if row.loss_rise is not None:
        notes.append(Cell(reasons.loss_rise(row.loss_rise), "yellow"))
    if row.reason not in reasons.LOSSES:
        return notes
    if row.state != State.FAILED:
        return [*notes, *(Cell(line, dim=True) for line in _why_requeued(row))]
    used_up = row.reason_count is not None and row.reason_count == row.reason_limit
    why = reasons.why(row.reason, row.reason_count if used_up else None, row.reason_limit)
    message = end.message if end is not None else ""
    notes.append(Cell(f"{why}: {message}" if message and message != why else why, "red"))
    if end is not None and end.hint:
        notes.append(Cell(f"hint: {end.hint}", "cyan"))
    earlier = [*map(_ended_attempt, row.attempts[:-1])]
    return [*notes, Cell(f"before: {', '.join(earlier)}", dim=True)] if earlier else notes


def _why_requeued(row: JobRow) -> Iterator[str]:
    """Why each attempt ended; for the last one also how much of its retry budget is used."""
    last = row.attempts[-1]
    why = reasons.why(last.reason, row.reason_count, row.reason_limit)
    if len(row.attempts) == 1:
        yield f"attempt {_ended_attempt(last, why)}"
    else:
        earlier = ", ".join(map(_ended_attempt, row.attempts[:-1]))
        yield f"attempts {earlier}, {_ended_attempt(last, why)}"


def _ended_attempt(attempt: EndedAttemptRow, why: str | None = None) -> str:
    """`3: bad node at step 400 on gpu7`."""
    step = "" if attempt.step is None else f" at step {attempt.step:,}"
    host = f" on {attempt.host}" if attempt.host else ""
    again = ", retried" if attempt.retried else ""
    why = why or reasons.REASONS.get(attempt.reason, attempt.reason)
    return f"{attempt.attempt}: {why}{step}{host}{again}"


def _worker_lines(now: Status) -> Iterator[str]:
    live = [worker for worker in now.workers if worker.alive]
    busy = sum(worker.job is not None for worker in live)
    silent = [worker for worker in now.workers if not worker.alive and worker.job]
    yield ""
    idle = f" ({busy} busy, {len(live) - busy} idle{_mean_busy(live)})" if live else ""
    yield f"{plural(len(live), 'worker')} alive{idle}" + (
        click.style(f", {len(silent)} silent with a job", fg="yellow") if silent else ""
    )
    # Workers with a note first. Silent workers without a job have left and are not shown.
    shown = sorted([*silent, *live], key=lambda row: (row.alive, not row.note, row.state == "busy"))
    if shown:
        yield ""
        yield from worker_table(shown[:WORKERS]).lines()
    if len(shown) > WORKERS:
        yield click.style(f"and {len(shown) - WORKERS:,} more (`jobspec workers`)", dim=True)
    if now.quarantine:
        yield ""
    for host in now.quarantine:
        why = now.quarantine_reasons.get(host)
        yield click.style(f"quarantined: {host}{f': {why}' if why else ''}", fg="yellow")


def _mean_busy(live: Sequence[WorkerRow]) -> str:
    busy = [worker.busy_frac for worker in live if worker.busy_frac is not None]
    return f"; busy {sum(busy) / len(busy):.0%} of their time" if busy else ""


def worker_table(rows: Sequence[WorkerRow]) -> Table:
    """One row per worker, with its note below it."""
    table = Table(_WORKER_COLUMNS)
    for row in rows:
        table.add(
            row.worker,
            Cell(row.state, _WORKER_COLOURS.get(row.state)),
            "" if row.busy_frac is None else f"{row.busy_frac:.0%}",
            row.slurm_job or "",
            row.host,
            f"{row.gpus}× {row.gpu_name or 'GPU'}" if row.gpus else "",
            row.job or row.helps or "",
            row.phase or ("helps" if row.helps else ""),
            "" if row.age_s is None else f"{duration(row.age_s)} ago",
            notes=[Cell(row.note, "yellow")] if row.note else [],
        )
    return table
