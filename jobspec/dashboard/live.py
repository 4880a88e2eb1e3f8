"""What the live page is told: rows that have changed, and the details of the runs it shows.

Reading takes at most 3 % of a processor's time, however many runs there are: it pauses for long
enough after each part.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from jobspec.dashboard import document, page
from jobspec.dashboard.details import read_details
from jobspec.dashboard.document import QueueFacts, RunReader
from jobspec.dashboard.runs import RunRow
from jobspec.records import base as records

if TYPE_CHECKING:
    from jobspec.queue.job import Job
    from jobspec.queue.queue import Queue

PING_S = 10.0  # between comments on an event stream, which detect that it was closed
_SHARE = 0.015  # of a processor's time, for rows and for details each
_KEPT = 64  # runs whose details are kept in memory


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The queue and all rows at one time."""

    made_at: str
    queue: QueueFacts
    runs: list[RunRow]


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the stream: the rows that are new or have changed, and the ids of all."""

    made_at: str
    queue: QueueFacts
    runs: list[RunRow]
    ids: list[str]


class _Pace:
    """Lets some work take only a small share of a processor's time: it rests after each part."""

    def __init__(self) -> None:
        self._until = 0.0
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.thread_time()

    def __exit__(self, *error: object) -> None:
        self._until = time.monotonic() + (time.thread_time() - self._began) / _SHARE

    def rest_s(self) -> float:
        """Seconds until the next part of the work may begin."""
        return self._until - time.monotonic()


class LiveRuns:
    """The runs of a queue for any number of open pages; the files are read once for all of them.

    Args:
        choose: lists the jobs to show.
        interval_s: the least time between two reads of the files.
    """

    def __init__(
        self, queue: Queue, choose: Callable[[], Sequence[Job]], interval_s: float
    ) -> None:
        self._reader = RunReader(queue, choose)
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._snapshot: Snapshot | None = None
        self._read_at = 0.0
        self._rows_pace, self._details_pace = _Pace(), _Pace()
        self._details: dict[str, tuple[RunRow | None, bytes]] = {}

    def page(self) -> str:
        """The whole page."""
        now = self.snapshot()
        return page.render(document.live_document(now.queue, now.runs))

    def snapshot(self) -> Snapshot:
        """The newest rows; those of before if it is not yet time to read again."""
        with self._lock:
            too_soon = time.monotonic() - self._read_at < self._interval_s / 2
            if self._snapshot is not None and (too_soon or self._rows_pace.rest_s() > 0):
                return self._snapshot
            with self._rows_pace:
                facts, rows = self._reader.read()
            if self._snapshot is None or (facts, rows) != (
                self._snapshot.queue,
                self._snapshot.runs,
            ):
                self._snapshot = Snapshot(made_at=records.utc_now(), queue=facts, runs=rows)
            self._read_at = time.monotonic()
            return self._snapshot

    def details(self, name: str) -> bytes | None:
        """The details of a run as JSON; None if there is no such run.

        Waits until it is time to read, if an older state of the run was read before.
        """
        row = next((row for row in self.snapshot().runs if row.id == name), None)
        while True:
            with self._lock:
                job, (known, made) = self._reader.job(name), self._details.get(name, (None, b""))
                if job is None or (known == row and made):
                    return made or None
                wait_s = self._details_pace.rest_s() if made else 0.0
                if wait_s <= 0:
                    return self._read_details(job, row)
            if self._closed.wait(wait_s):
                return made

    def _read_details(self, job: Job, row: RunRow | None) -> bytes:
        with self._details_pace:
            made = msgspec.json.encode(read_details(job))
        newest = list(self._details.items())[-_KEPT:]
        self._details = {**dict(newest), job.id: (row, made)}
        return made

    def pairs(self, a: str, b: str) -> bytes | None:
        """The differences b − a as JSON; None if one of the runs does not exist."""
        with self._lock:
            left, right = self._reader.job(a), self._reader.job(b)
        if left is None or right is None:
            return None
        return msgspec.json.encode(list(document.pair(left, right)))

    def update(self, known: Snapshot | None) -> tuple[Snapshot, bytes | None]:
        """The newest snapshot, and what a page that has `known` must be told; None if nothing."""
        now = self.snapshot()
        if now is known:
            return now, None
        before = {row.id: row for row in known.runs} if known is not None else {}
        told = Update(
            made_at=now.made_at,
            queue=now.queue,
            runs=[row for row in now.runs if before.get(row.id) != row],
            ids=[row.id for row in now.runs],
        )
        return now, msgspec.json.encode(told)

    def wait(self) -> bool:
        """Wait until the next look; False once the server is closed."""
        return not self._closed.wait(self._interval_s)

    def close(self) -> None:
        self._closed.set()

    @property
    def pings(self) -> int:
        """Number of looks between two pings."""
        return max(1, round(PING_S / self._interval_s))
