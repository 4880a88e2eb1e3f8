"""What a person sees of a wait: a progress bar on a terminal, one plain line in a pipe.

Both appear on stderr, and only if the wait lasts longer than two seconds.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

T = TypeVar("T")
AFTER_S = 2.0


class Wait:
    """A wait for `total` things, or for one thing of unknown length if `total` is None.

    Args:
        what: like `checking specs`.
        total: how many.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self._what, self._total = what, total
        self._done, self._detail = 0, ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._lock = threading.Lock()
        self._over = False

    def tell(self, detail: str) -> None:
        """What is being done now, beside the bar."""
        self._detail = detail
        self._update()

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        self._update()

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items; each one counts as done when the next one is asked for."""
        for item in items:
            yield item
            self.advance()

    @contextlib.contextmanager
    def shown_after(self, seconds: float = AFTER_S) -> Generator[None]:
        """Show this wait as soon as it has lasted for so long."""
        timer = threading.Timer(seconds, self.show)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self.close()

    def show(self) -> None:
        """Draw the bar, or print the line. Called by a timer, and at once by a countdown."""
        with self._lock:
            if self._over or self._bar is not None:
                return
            if _draws():
                self._start()
            else:
                click.echo(f"{self._line()} …", err=True)

    def close(self) -> None:
        """Erase the bar."""
        with self._lock:
            self._over = True
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def _line(self) -> str:
        count = "" if self._total is None else f", {self._count}"
        return f"{self._what}{count}{f': {self._detail}' if self._detail else ''}"

    @property
    def _title(self) -> str:
        return f"{self._what}{f': {self._detail}' if self._detail else ''}"

    @property
    def _count(self) -> str:
        """How much is done, beside the bar."""
        return "" if self._total is None else f"{self._done} of {self._total}"

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        text = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self._bar = Progress(
            TextColumn("{task.description}", table_column=text, markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[count]}", markup=False),
            *self._clock(),
            console=Console(file=sys.stderr),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
        )
        self._task = self._bar.add_task(self._title, total=self._total, count=self._count)
        self._bar.start()

    def _clock(self) -> Iterable[ProgressColumn]:
        from rich.progress import TimeElapsedColumn

        return [TimeElapsedColumn()]

    def _update(self) -> None:
        if self._bar is not None and self._task is not None:
            done, title = self._done, self._title
            self._bar.update(self._task, completed=done, description=title, count=self._count)


class Countdown(Wait):
    """A wait of known length in seconds, which is shown at once."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(what, max(1, round(seconds)))
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end

    def sleep(self, seconds: float) -> None:
        """Sleep, and count down meanwhile; not beyond the end."""
        until = min(self._end, time.monotonic() + seconds)
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(min(0.5, left_s))
            self._done = min(self._total or 0, round((self._total or 0) - self._left_s))
            self._update()

    @property
    def _left_s(self) -> float:
        return max(0.0, self._end - time.monotonic())

    @property
    def _count(self) -> str:
        return f"in {math.ceil(self._left_s)} s"

    def _line(self) -> str:
        return f"{self._what} {self._count}"

    def _clock(self) -> Iterable[ProgressColumn]:
        return []


def _draws() -> bool:
    """Whether stderr is a terminal in which a line can be redrawn."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextlib.contextmanager
def waiting(what: str, total: int | None = None, *, after_s: float = AFTER_S) -> Generator[Wait]:
    """Show what is being waited for if it takes longer than `after_s`. Print nothing inside.

    Args:
        what: like `checking specs`.
        total: how many things; None if it is one thing of unknown length.
        after_s: seconds before anything is shown.
    """
    wait = Wait(what, total)
    with wait.shown_after(after_s):
        yield wait


@contextlib.contextmanager
def countdown(what: str, seconds: float) -> Generator[Countdown]:
    """Show at once how much is left of a wait of known length."""
    wait = Countdown(what, seconds)
    wait.show()
    try:
        yield wait
    finally:
        wait.close()
