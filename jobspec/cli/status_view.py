"""Render the records of jobspec.monitoring.status as lines of text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import click

from jobspec.cli.output import (
    Cell,
    Column,
    Table,
    bar,
    duration,
    plural,
    terminal_width,
    without_digests,
    wrap,
)
from jobspec.monitoring import reasons, workers
from jobspec.monitoring.status import EndedAttemptRow, JobRow, Status
from jobspec.monitoring.workers import WorkerRow
from jobspec.queue.job import Job
from jobspec.records.attempt import End
from jobspec.records.base import FINAL, State
from jobspec.records.queue_files import Hold
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
_BAR = 2  # index of the column of progress bars
_JOB_COLUMNS = (
    Column("job", brief_rank=3),
    Column("state"),
    Column("", 4),
    Column("time", 8, right=True),
    Column("loss", right=True),
    Column("held out", 5, right=True),
    Column("figures", 6, least=15, drop_rank=7),
    Column("try", 5, right=True),
    Column("user", 5),
    Column("host", 2),
    Column("worker", 1),
)
_WORKER_COLUMNS = (
    Column("worker", brief_rank=3),
    Column("state"),
    Column("busy", 8, right=True),
    Column("slurm", 7),
    Column("host", 2),
    Column("gpus", 4),
    Column("job", 5, least=14, brief_rank=3),
    Column("phase", 2),
    Column("seen", 6, right=True),
)
_HELD = "held"  # the state of a pending job during `jobspec hold`


def lines(
    now: Status, jobs: Sequence[Job], height: int | None = None, *, watched: bool = False
) -> list[str]:
    """The whole screen.

    Args:
        now: the status to show.
        jobs: the jobs of its rows.
        height: limit of lines, met by cutting the table of jobs; None for no limit.
        watched: draw progress bars on narrow terminals too, and one of all jobs.
    """
    top, foot = _headline(now), list(_worker_lines(now))
    if watched and (total := sum(now.counts.values())):
        ended = sum(now.counts.get(state, 0) for state in FINAL)
        top.append(f"{bar(ended / total, 20)} {ended:,} of {plural(total, 'job')} ended")
    if now.hold is not None:
        top += [click.style(line, fg="yellow") for line in _hold_lines(now.hold)]
    elif now.nothing_runs is not None:
        why = wrap(f"no job is claimed: {now.nothing_runs}", terminal_width())
        top += [click.style(line, fg="yellow") for line in why]
    drawn = job_table(now.jobs, jobs, held=now.hold is not None, watched=watched)
    table = ["", *drawn.lines()] if now.jobs else []
    if now.left_out:
        rest = ", ".join(f"{count:,} {state}" for state, count in now.left_out.items())
        foot = [click.style(f"and {rest} more (--all, --state)", dim=True), *foot]
    if height is not None:
        foot = foot[: max(2, height // 3)]
        table = cut(table, height - len(top) - len(foot))
    return [*top, *table, *foot][:height]


def _hold_lines(hold: Hold) -> list[str]:
    why = f": {hold.reason}" if hold.reason else ""
    age = duration(workers.age_s(hold.at))
    facts = [f"by {hold.by}" if hold.by else "", f"for {age}" if age else ""]
    facts = ", ".join(filter(None, [*facts, "`jobspec release` lifts it"]))
    return wrap(f"on hold{why} ({facts})", terminal_width())


def cut(drawn: list[str], room: int) -> list[str]:
    """The first lines of a table, and how many lines it has."""
    if len(drawn) <= room:
        return drawn
    if room < 1:
        return []
    return [*drawn[: room - 1], click.style(f"… {len(drawn)} lines", dim=True)]


def _headline(now: Status) -> list[str]:
    """The root and the counts, on several lines if they do not fit on one."""
    parts = [
        click.style(f"{count:,} {state}", fg=COLOURS[State(state)])
        for state, count in now.counts.items()
        if count
    ]
    total = plural(sum(now.counts.values()), "job")
    root, width = click.style(now.root, bold=True), terminal_width()
    lines = [f"{root}  {total}" + (": " if parts else "")]
    if len(click.unstyle(lines[0] + ", ".join(parts))) > width:
        lines = [root, total + (": " if parts else "")]
    for number, part in enumerate(parts, 1):
        comma = "," if number < len(parts) else ""
        if len(click.unstyle(lines[-1] + part + comma)) > width:
            lines.append("  ")
        lines[-1] += f"{part}{comma} "
    return [line.rstrip() for line in lines]


def job_table(
    rows: Sequence[JobRow], jobs: Sequence[Job], *, held: bool = False, watched: bool = False
) -> Table:
    """One row per job, with notes on why it failed, was retried or waits.

    The users are shown if there are several. Where there is little room, ids lose their digest.

    Args:
        held: the queue is on hold.
        watched: progress bars stay where there is little room.
    """
    columns = list(_JOB_COLUMNS)
    if watched:
        columns[_BAR] = dataclasses.replace(columns[_BAR], rank=7)
    table = Table(columns)
    several_users = len({row.user for row in rows if row.user}) > 1
    names = without_digests([row.job for row in rows])
    for row, job, name in zip(rows, jobs, names, strict=True):
        state = State(row.state)
        waits = held and state is State.PENDING
        table.add(
            Cell(row.job, brief=name),
            Cell(
                _HELD if waits else state_and_phase(row),
                "yellow" if waits else COLOURS[state],
                dim=state is State.CANCELLED,
            ),
            "" if row.progress is None else bar(row.progress),
            _time(row),
            _loss_cell(row),
            "" if row.eval_loss is None else f"{row.eval_loss:.4g}",
            _scores_or_speed(row),
            str(row.attempt) if row.attempt > 1 else "",
            (row.user or "") if several_users else "",
            row.host or "",
            row.worker or "",
            notes=_notes(row, job.end if row.reason in reasons.LOSSES else None),
        )
    return table


def state_and_phase(row: JobRow) -> str:
    """The state; of a running job, its phase and progress: `train 43 %`."""
    if row.state != State.RUNNING:
        return row.state
    progress = "" if row.progress is None else f" {int(row.progress * 100 + 1e-9)} %"
    return f"{row.phase or 'starting'}{progress}"


def _time(row: JobRow) -> str:
    """The time that a running phase will still take, or that the last attempt took."""
    if row.state == State.RUNNING:
        return "" if row.eta_s is None else f"{duration(row.eta_s)} left"
    started, ended = workers.age_s(row.started_at), workers.age_s(row.ended_at)
    return duration(started - ended) if started is not None and ended is not None else ""


def _loss_cell(row: JobRow) -> Cell:
    """The training loss, and `▲` if it rose; `NaN` if a loss or gradient was not finite."""
    if row.non_finite:
        return Cell("NaN ▲", "red", bold=True)
    loss = "" if row.loss is None else f"{row.loss:.4g}"
    if row.loss_rise is not None:
        return Cell(f"{loss} ▲".lstrip(), "red", bold=True)
    return Cell(loss)


def _scores_or_speed(row: JobRow) -> str:
    """The scores of a finished job; the speed of one that trains, or what it has done."""
    scores = table.main_metrics(row.metrics)
    if scores:
        return ", ".join(f"{short(name)} {value:.3f}" for name, (_, value) in scores.items())
    if row.state != State.RUNNING:
        return ""
    if (speed := row.metrics.get("tokens_per_second")) is not None:
        return f"{speed:,.0f} tok/s"
    if row.done is not None and row.total:
        return f"{row.done:,.0f}/{row.total:,.0f} {row.unit or ''}".rstrip()
    return ""


def figures(row: JobRow) -> str:
    """The loss and speed of a running job, the scores of a finished one, on one line."""
    named = (("loss", row.loss), ("held out", row.eval_loss))
    parts = [f"{name} {value:.4g}" for name, value in named if value is not None]
    return ", ".join([*parts, *filter(None, [_scores_or_speed(row)])])


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
    names = without_digests([row.worker for row in rows])
    jobs = without_digests([row.job or row.helps or "" for row in rows])
    for row, name, job in zip(rows, names, jobs, strict=True):
        table.add(
            Cell(row.worker, brief=name),
            Cell(row.state, _WORKER_COLOURS.get(row.state)),
            "" if row.busy_frac is None else f"{row.busy_frac:.0%}",
            row.slurm_job or "",
            row.host,
            f"{row.gpus}× {row.gpu_name or 'GPU'}" if row.gpus else "",
            Cell(row.job or row.helps or "", brief=job),
            row.phase or ("helps" if row.helps else ""),
            "" if row.age_s is None else f"{duration(row.age_s)} ago",
            notes=[Cell(row.note, "yellow")] if row.note else [],
        )
    return table
