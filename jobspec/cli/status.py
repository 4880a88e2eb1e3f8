"""`jobspec status`: counts, one line per job, the workers, and why nothing runs."""

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

_ROWS = 12  # ended and waiting jobs in the table; the counts include the others
_JSON_ROWS = 500


@click.command()
@jobs_argument(required=False)
@state_option
@click.option("--mine", is_flag=True, help="Only jobs that you enqueued.")
@click.option("--all", "everything", is_flag=True, help="Show all jobs.  [default: the newest]")
@click.option("--watch", is_flag=True, help="Redraw the screen until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.2),
    default=2.0,
    show_default=True,
    help="Seconds between redraws with --watch.",
)
@common
def status(
    jobs: tuple[str, ...],
    states: tuple[str, ...],
    mine: bool,
    everything: bool,
    watch: bool,
    interval: float,
) -> None:
    """Show running, waiting and ended jobs, and the reasons of failures.

    \b
    jobspec status
    jobspec status --watch
    jobspec status 'qwen3-*' --state failed
    jobspec status --mine

    Without --all it shows only the newest ended jobs. The counts always include all jobs.
    """
    queue = open_queue(write=False)
    limit = None if everything or jobs or states else _JSON_ROWS if wants_json() else _ROWS
    view = _View(queue, jobs, states, limit, mine=mine)
    if wants_json():
        return emit_struct(view.status()[0])
    if watch:
        return _redraw(view, interval)
    for line in view.lines():
        click.echo(line)
    return None


class _View:
    """The jobs to show, read from the queue once or repeatedly."""

    def __init__(
        self,
        queue: Queue,
        jobs: Sequence[str],
        states: Sequence[str],
        limit: int | None,
        *,
        mine: bool = False,
    ) -> None:
        self._queue = queue
        self._patterns = list(jobs)
        self._states = states
        self._limit = limit
        self._mine = mine

    def status(self) -> tuple[Status, Selection]:
        everything = self._queue.jobs()
        wanted = everything
        if self._patterns:
            wanted = selectors.find_all(everything, self._patterns)
        if self._states:
            wanted = [job for job in wanted if job.state.value in self._states]
        if self._mine:
            from jobspec.queue.enqueue import current_user

            wanted = [job for job in wanted if job.user == current_user()]
        selection = report.select(wanted, self._limit)
        return report.status(self._queue, everything, selection), selection

    def lines(self, height: int | None = None, *, watched: bool = False) -> list[str]:
        now, selection = self.status()
        return status_view.lines(now, selection.jobs, height, watched=watched)


def _redraw(view: _View, interval: float) -> None:
    """Redraw in place; a resized window is redrawn at once."""
    if not interactive() or os.environ.get("TERM") == "dumb":
        raise click.UsageError("--watch needs a terminal; use --json in a loop, or `jobspec wait`.")
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGWINCH, _wake)
    sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[?7l")  # alternate screen, hidden cursor, no wrapping
    frame: list[str] = []
    try:
        while True:
            frame = view.lines(os.get_terminal_size().lines - 1, watched=True)
            _draw(frame)
            if select.select([wake], [], [], interval)[0]:
                os.read(wake, 4096)
    except KeyboardInterrupt:
        pass
    finally:
        signal.set_wakeup_fd(-1)
        sys.stdout.write("\x1b[?7h\x1b[?25h\x1b[?1049l")
    click.echo("\n".join(frame))


def _wake(_number: int, _frame: object) -> None:
    """Do nothing: the byte that the signal writes to the wakeup pipe ends the pause."""


def _draw(frame: list[str]) -> None:
    click.echo("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in frame) + "\x1b[J", nl=False)
