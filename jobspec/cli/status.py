"""`jobspec status`: counts, a line a job, who works, and why nothing does."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Sequence

import click

from jobspec.cli import status_view
from jobspec.cli.common import common, jobs_argument, open_queue, state_option, wants_json
from jobspec.cli.output import emit_struct, interactive
from jobspec.monitoring import status as report
from jobspec.monitoring.status import Selection, Status
from jobspec.queue import selectors
from jobspec.queue.queue import Queue

_ROWS = 12  # ended and waiting jobs in a table; the counts tell of the rest
_JSON_ROWS = 500


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

    def status(self) -> tuple[Status, Selection]:
        everything = self._queue.jobs()
        wanted = everything
        if self._patterns:
            wanted = selectors.some(everything, self._patterns)
        if self._states:
            wanted = [job for job in wanted if job.state.value in self._states]
        selection = report.select(wanted, self._limit)
        return report.status(self._queue, everything, selection), selection

    def lines(self, height: int | None = None) -> list[str]:
        now, selection = self.status()
        return status_view.lines(now, selection.jobs, height)


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
            frame = look.lines(os.get_terminal_size().lines - 1)
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
    click.echo("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in frame) + "\x1b[J", nl=False)
