"""The log of a worker: a line a minute on the running attempt, and where a stop leaves its job."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

from jobspec.errors import DiskFull
from jobspec.records import base as records
from jobspec.records.attempt import Progress
from jobspec.storage.layout import AttemptPaths, RootPaths
from worker.supervisor.attempt_history import read_history

EVERY_S = 60.0


class ProgressLog:
    """Writes how far the running attempt is, at most once a minute.

    Args:
        attempt: the attempt.
        job: its job's id.
        say: writes a line to the worker's log.
    """

    def __init__(self, attempt: AttemptPaths, job: str, say: Callable[[str], None]) -> None:
        self._attempt = attempt
        self._job = job
        self._say = say
        self._next = time.monotonic() + EVERY_S
        self._last = ""

    def look(self) -> None:
        """Write a line if one is due and there is progress. Raises OSError."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY_S
        progress = records.read(self._attempt.progress, Progress)
        if progress is not None and progress.line != self._last:
            self._last = progress.line
            self._say(f"{self._job} {progress.line}")


def what_was_saved(root: RootPaths, job: str, attempt: int) -> str:
    """Where a stopped job goes on, and the command for that."""
    try:
        state = read_history(root.job(job), attempt + 1).state
    except (OSError, DiskFull):
        state = None
    where = "keeps what it has finished" if state is None else f"goes on from step {state.step:,}"
    return f"{job} is pending again and {where}: start a worker with --root {root.root}"


def say(message: str) -> None:
    """Print a line to the worker's log, which may be on a full disk or a closed terminal."""
    with contextlib.suppress(OSError):
        print(f"{records.utc_now()} {message}", file=sys.stderr, flush=True)  # noqa: T201 - the log
