"""The one JSON document that the page shows: every run's row, and what the rows do not say.

A file has the details of all runs in it. The live page gets the rows, and asks for the details of
the runs that it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from jobspec.dashboard import runs
from jobspec.dashboard.curves import MOST_POINTS
from jobspec.dashboard.details import RunDetails, read_details
from jobspec.dashboard.runs import RunRow
from jobspec.errors import JobspecError
from jobspec.monitoring import workers
from jobspec.records import base as records
from jobspec.records.base import State
from jobspec.results import pairing, settings
from jobspec.results.settings import Setting

if TYPE_CHECKING:
    from jobspec.queue.entries import Entry
    from jobspec.queue.job import Job
    from jobspec.queue.queue import Queue

_POINTS = 24_000  # of all curves in a file
_SAMPLE_TEXT = 600_000  # characters of all samples in a file
_ALL_PAIRS = 10  # of more runs, each is compared only with its untuned model


class QueueFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The queue as it is now.

    Attributes:
        nothing_runs: why pending jobs are not claimed; null if that needs no explanation.
        quarantine: hosts whose workers claim nothing, and why.
    """

    root: str
    nothing_runs: str | None
    workers_alive: int
    workers_busy: int
    quarantine: dict[str, str]


class PairedDifference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The difference B − A of two runs on one benchmark, question by question."""

    a: str
    b: str
    benchmark: str
    mean: float
    beyond_noise: bool
    questions: int
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    lower_is_better: bool = False


class PageDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What the page is made of. `details` has the runs whose details are in it."""

    made_at: str
    live: bool
    queue: QueueFacts
    defaults: dict[str, Setting]
    runs: list[RunRow]
    details: dict[str, RunDetails]
    pairs: list[PairedDifference]


class RunReader:
    """Reads the rows of all runs again and again, and only the files that have changed.

    Args:
        choose: lists the jobs to show.
    """

    def __init__(self, queue: Queue, choose: Callable[[], Sequence[Job]]) -> None:
        self._queue = queue
        self._choose = choose
        self._jobs: dict[str, Job] = {}
        self._rows: dict[str, tuple[_Change, RunRow]] = {}

    def read(self) -> tuple[QueueFacts, list[RunRow]]:
        """The queue and the rows of all runs, in the order in which they were enqueued."""
        jobs = [self._same(job) for job in runs.in_order(self._choose())]
        worker_rows = workers.rows(self._queue)
        self._jobs = {job.id: job for job in jobs}
        self._rows = {job.id: self._row(job, worker_rows) for job in jobs}
        rows = [
            runs.with_workers(row, job, worker_rows)
            for job, (_, row) in zip(jobs, self._rows.values(), strict=True)
        ]
        return _queue_facts(self._queue, jobs, worker_rows), rows

    def job(self, name: str) -> Job | None:
        """One of the jobs that were read last."""
        return self._jobs.get(name)

    def _same(self, job: Job) -> Job:
        """The job that was read before, if its entry is the same: it knows its spec."""
        old = self._jobs.get(job.id)
        return old if old is not None and old.entry == job.entry else job

    def _row(self, job: Job, worker_rows: Sequence[workers.WorkerRow]) -> tuple[_Change, RunRow]:
        change, old = _Change.of(job), self._rows.get(job.id)
        if old is not None and old[0] == change:
            return old
        if old is not None and old[0].entry == change.entry and job.state is State.RUNNING:
            return change, runs.go_on(old[1], job)
        return change, runs.read_row(job, worker_rows)


class _Change(msgspec.Struct, frozen=True):
    """Two equal ones mean that a row need not be read again."""

    entry: Entry
    files: tuple[tuple[int, int, int] | None, ...]

    @classmethod
    def of(cls, job: Job) -> _Change:
        if job.state is State.PENDING:
            return cls(job.entry, ())
        attempt = job.paths.attempt(job.attempt)
        changing = {
            State.RUNNING: (attempt.progress, attempt.metrics),
            State.SUCCEEDED: (attempt.result,),
        }
        return cls(job.entry, tuple(map(_stat, changing.get(job.state, (attempt.end,)))))


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _queue_facts(
    queue: Queue, jobs: Sequence[Job], worker_rows: Sequence[workers.WorkerRow]
) -> QueueFacts:
    quarantine = {host: mark.reason for host, mark in queue.quarantined().items()}
    alive = [each for each in worker_rows if each.alive]
    return QueueFacts(
        root=str(queue.paths.root),
        nothing_runs=workers.why_nothing_runs(queue, jobs, worker_rows, quarantine),
        workers_alive=len(alive),
        workers_busy=sum(each.job is not None for each in alive),
        quarantine=quarantine,
    )


def live_document(facts: QueueFacts, rows: list[RunRow]) -> PageDocument:
    """What the live page begins with: rows without details."""
    return PageDocument(
        made_at=records.utc_now(),
        live=True,
        queue=facts,
        defaults=settings.DEFAULTS,
        runs=rows,
        details={},
        pairs=[],
    )


def whole_document(queue: Queue, jobs: Sequence[Job]) -> PageDocument:
    """Everything about all jobs, for a file that needs no server."""
    reader = RunReader(queue, lambda: jobs)
    facts, rows = reader.read()
    points = min(MOST_POINTS, max(60, _POINTS // max(1, len(rows))))
    text = min(40_000, _SAMPLE_TEXT // max(1, len(rows)))
    return PageDocument(
        made_at=records.utc_now(),
        live=False,
        queue=facts,
        defaults=settings.DEFAULTS,
        runs=rows,
        details={job.id: read_details(job, points=points, sample_text=text) for job in jobs},
        pairs=list(_pairs(runs.in_order(jobs), rows)),
    )


def _pairs(jobs: Sequence[Job], rows: Sequence[RunRow]) -> Iterator[PairedDifference]:
    """The differences between all runs with scores; of many runs, from their untuned models."""
    scored = [job for job, row in zip(jobs, rows, strict=True) if row.scores]
    for a, b in combinations(scored, 2):
        if len(scored) <= _ALL_PAIRS or _is_base_of(a, b):
            yield from pair(a, b)
        elif _is_base_of(b, a):
            yield from pair(b, a)


def _is_base_of(a: Job, b: Job) -> bool:
    """Whether `a` is the untuned model of `b`."""
    return a.spec.train is None and b.spec.train is not None and a.spec.model == b.spec.model


def pair(a: Job, b: Job) -> Iterator[PairedDifference]:
    """The difference B − A of each benchmark that was measured in the same way in both."""
    try:
        found = pairing.differences_from(b, a)
    except (JobspecError, OSError):
        return
    for benchmark, each in found.items():
        low, high = each.interval or (None, None)
        yield PairedDifference(
            a=a.id,
            b=b.id,
            benchmark=benchmark,
            mean=each.mean,
            low=low,
            high=high,
            p_value=each.p_value,
            questions=each.questions,
            beyond_noise=each.beyond_noise,
            lower_is_better=not each.higher_is_better,
        )
