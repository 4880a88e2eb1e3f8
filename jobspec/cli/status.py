"""`jobspec status`: counts, a line a job, who works, and why nothing does."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence

import click

from jobspec import report, results, words
from jobspec.cli.common import common, jobs_argument, open_queue, state_option, wants_json
from jobspec.cli.output import Cell, Column, Table, bar, duration, emit_struct, interactive, plural
from jobspec.entries import Job
from jobspec.queue import Queue
from jobspec.record import End, State
from jobspec.report import JobRow, Status

COLOURS = {
    State.PENDING: None,
    State.RUNNING: "cyan",
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.CANCELLED: "yellow",
}
_ROWS = 12  # ended and waiting jobs in a table; the counts tell of the rest
_JSON_ROWS = 500
_COLUMNS = (
    Column("job"),
    Column("state"),
    Column("", 4),
    Column("eta", 7, right=True),
    Column("figures", 5, least=12),
    Column("try", 6, right=True),
    Column("host", 3),
    Column("worker", 1),
)
_FIGURES = ("loss", "eval_loss", "tokens_per_second")


@click.command()
@jobs_argument(required=False)
@state_option
@click.option("--all", "everything", is_flag=True, help="Every job, however many.")
@click.option("--watch", is_flag=True, help="Redraw until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(0.2), default=2.0, help="Seconds. [default: 2]")
@common
def status(
    jobs: tuple[str, ...], states: tuple[str, ...], everything: bool, watch: bool, interval: float
) -> None:
    """Show what runs, what waits, what ended and why.

    \b
    jobspec status
    jobspec status --watch
    jobspec status 'qwen3-*' --state failed

    Without --all the newest ended jobs are shown; the counts are always of all.
    """
    queue = open_queue()
    limit = None if everything or jobs or states else _JSON_ROWS if wants_json() else _ROWS
    look = _Look(queue, jobs, states, limit)
    if wants_json():
        return emit_struct(look.status()[0])
    if watch:
        return _redraw(look, interval)
    for line in look.lines():
        click.echo(line)
    return None


class _Look:
    """What is asked of the queue, to be looked at once or again and again."""

    def __init__(
        self, queue: Queue, jobs: Sequence[str], states: Sequence[str], limit: int | None
    ) -> None:
        self._queue = queue
        self._patterns = list(jobs)
        self._states = states
        self._limit = limit

    def status(self) -> tuple[Status, report.Selection, list[Job]]:
        everything = self._queue.jobs()
        wanted = self._queue.select(self._patterns) if self._patterns else everything
        if self._states:
            wanted = [job for job in wanted if job.state.value in self._states]
        selection = report.select(wanted, self._limit)
        return report.status(self._queue, everything, selection.jobs), selection, everything

    def lines(self) -> Iterator[str]:
        now, selection, everything = self.status()
        yield _headline(now)
        why = report.why_waiting(self._queue, everything, now.workers)
        if why is not None:
            yield click.style(f"nothing is claimed: {why}", fg="yellow")
        if now.jobs:
            yield ""
            yield from _job_table(now.jobs, selection.jobs).lines()
        if selection.hidden:
            rest = ", ".join(
                f"{count:,} {state.value}" for state, count in selection.hidden.items()
            )
            yield click.style(f"and {rest} more (--all, --state)", dim=True)
        yield from _worker_lines(now)


def _headline(now: Status) -> str:
    parts = [
        click.style(f"{count:,} {state}", fg=COLOURS[State(state)])
        for state, count in now.counts.items()
        if count
    ]
    total = plural(sum(now.counts.values()), "job")
    return f"{click.style(now.root, bold=True)}  {total}" + (
        f": {', '.join(parts)}" if parts else ""
    )


def _job_table(rows: Sequence[JobRow], jobs: Sequence[Job]) -> Table:
    table = Table(_COLUMNS)
    for row, job in zip(rows, jobs, strict=True):
        state = State(row.state)
        table.add(
            row.job,
            Cell(state_and_phase(row), COLOURS[state], dim=state is State.CANCELLED),
            "" if row.progress is None else bar(row.progress),
            duration(row.eta_s),
            figures(row),
            str(row.attempt) if row.attempt > 1 else "",
            row.host or "",
            row.worker or "",
            notes=_notes(row, job.end if row.reason in words.LOSSES else None),
        )
    return table


def state_and_phase(row: JobRow) -> str:
    """`running train 43%`, `succeeded 2h 05m`: the state, and how far or how long."""
    if row.state == State.RUNNING:
        share = "" if row.progress is None else f"{row.progress:4.0%}"
        return f"{row.state} {row.phase or 'starting'}{share}"
    started, ended = report.age_s(row.started_at), report.age_s(row.ended_at)
    took = duration(started - ended) if started is not None and ended is not None else ""
    return f"{row.state} {took}".rstrip()


def figures(row: JobRow) -> str:
    """The loss and speed of a running job, the scores of a finished one."""
    found = results.scores(row.metrics)
    if found:
        return " ".join(f"{short(name)} {score.value:.3f}" for name, score in found.items())
    known = {
        name: row.metrics.get(name) for name in (_FIGURES if row.phase == "train" else row.metrics)
    }
    parts = [_figure(name, value) for name, value in known.items() if value is not None]
    return ", ".join(parts[:3])


def _figure(name: str, value: float) -> str:
    return f"{value:,.0f} tok/s" if name == "tokens_per_second" else f"{name} {value:.4g}"


def short(benchmark: str) -> str:
    """A benchmark's name where there is little room."""
    return benchmark.removeprefix("minerva_")


def _notes(row: JobRow, end: End | None) -> list[Cell]:
    """Why a job failed and what to do; why one that waits or runs again came back."""
    if row.reason not in words.LOSSES:
        return []
    if row.state != State.FAILED:
        came_back = words.why(row.reason, row.reason_count, row.reason_limit)
        return [Cell(f"attempt {row.attempt - 1}: {came_back}", dim=True)]
    used_up = row.reason_count is not None and row.reason_count == row.reason_limit
    why = words.why(row.reason, row.reason_count if used_up else None, row.reason_limit)
    told = end.message if end is not None else ""
    notes = [Cell(f"{why}: {told}" if told and told != why else why, "red")]
    if end is not None and end.hint:
        notes.append(Cell(f"hint: {end.hint}", "cyan"))
    return notes


def _worker_lines(now: Status) -> Iterator[str]:
    live = [worker for worker in now.workers if worker.alive]
    busy = sum(worker.job is not None for worker in live)
    silent = [worker for worker in now.workers if not worker.alive and worker.job]
    yield ""
    idle = f" ({busy} busy, {len(live) - busy} idle)" if live else ""
    yield f"{plural(len(live), 'worker')} alive{idle}" + (
        click.style(f", {len(silent)} silent with a job", fg="yellow") if silent else ""
    )
    if now.quarantine:
        yield click.style(f"quarantined: {', '.join(now.quarantine)}", fg="yellow")


def _redraw(look: _Look, interval: float) -> None:
    """Draw again and again in place; a resized window is redrawn at once."""
    if not interactive():
        raise click.UsageError("--watch needs a terminal; use --json in a loop, or `jobspec wait`.")
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGWINCH, _wake)
    sys.stdout.write("\x1b[?1049h\x1b[?25l")  # another screen, no cursor
    frame: list[str] = []
    try:
        while True:
            frame = list(look.lines())
            _draw(frame)
            if select.select([wake], [], [], interval)[0]:
                os.read(wake, 4096)
    except KeyboardInterrupt:
        pass
    finally:
        signal.set_wakeup_fd(-1)
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
    click.echo("\n".join(frame))


def _wake(_number: int, _frame: object) -> None:
    """Do nothing: the signal's byte in the wakeup pipe is what ends the pause."""


def _draw(frame: list[str]) -> None:
    height = os.get_terminal_size().lines - 1
    shown = frame if len(frame) <= height else [*frame[: height - 1], f"… {len(frame)} lines"]
    click.echo("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J", nl=False)
