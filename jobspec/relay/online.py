"""All runs, pass after pass: read the files, ask the server for counts, send what it lacks."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobspec.errors import DiskFull, JobspecError
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records.base import FINAL
from jobspec.relay import tracked_run
from jobspec.relay.client import ClientProcess, Refused
from jobspec.relay.client_pool import ClientPool
from jobspec.relay.cursor import Cursor, Cursors, SentRows, target
from jobspec.relay.job_sinks import JobSinks
from jobspec.relay.reader import Reader
from jobspec.relay.row_sink import store_of
from jobspec.relay.sync import RunSync, SyncState, SyncTiming
from jobspec.relay.tracked_run import TrackedRun
from jobspec.storage.handover_lock import HandoverLock

_COUNTED_AT_ONCE = 50  # runs per query
_OPENED_PER_PASS = 100  # W&B accepts 80 new runs a second
_POLL_MOST_S = 60.0
_URGENT_S = 1.0
_OUTAGE_S = 5.0


@dataclass(frozen=True)
class RelayOptions:
    """Options of the command line. `select` returns the wanted jobs among the present ones."""

    select: Callable[[], list[Job]]
    sinks: tuple[str, ...] = ()  # instead of those of each spec
    stores: Mapping[str, Path] = field(default_factory=dict[str, Path])  # instead of the root's
    project: str | None = None
    entity: str | None = None
    settled: bool = False
    resend: bool = False
    everything: bool = False  # also look at ended jobs of which everything was sent
    interval_s: float = 15.0  # between two readings of the files
    timing: SyncTiming = field(default_factory=SyncTiming)


class Relay:
    """Sends the rows in the jobs' files to one destination.

    Args:
        sink: the destination; only jobs whose rows go there are read.
        lock: held by this process, so no other relay runs.
        say: called with each new problem.

    Raises:
        RelayError: the destination cannot be used.
    """

    def __init__(
        self,
        queue: Queue,
        options: RelayOptions,
        sink: str,
        sinks: JobSinks,
        lock: HandoverLock,
        say: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._sink, self._sinks = sink, sinks
        self._options = options
        self._lock = lock
        self._say = say
        self._last_heartbeat = time.monotonic()
        self._syncs: dict[tuple[str, str], RunSync] = {}
        self._cursors: dict[str, Cursor] = {}
        self._cursors_by_target: dict[str, Cursors] = {}
        self._seen: dict[str, Job] = {}
        self._reader = Reader(settled=options.settled)
        self._over: dict[str, tuple[str, int]] = {}
        self._read_at = float("-inf")
        self._progress: tuple[tuple[int, ...], float] = ((), time.monotonic())
        self._poll_at, self._poll_pause = 0.0, 2.0
        self.problems: dict[str, str] = {}
        self.arrived: dict[str, int] = {}  # by run, the rows that the server has
        store = store_of(sink, queue.paths, options.stores)
        self._pool = ClientPool(self._heartbeat, sink, store)

    def once(self) -> bool:
        """Make one pass.

        Returns:
            Whether everything that exists by now has arrived, or was given up.
        """
        try:
            self._heartbeat(force=True)
            if time.monotonic() >= self._read_at:
                self._read()
                self._read_at = time.monotonic() + self._options.interval_s
            self._poll()
            self._step()
            self._drop_dead()
            self._finish_jobs()
            self.problems.pop("root", None)
        except (OSError, DiskFull) as error:
            if not self._options.timing.watch:
                raise
            self._report("root", f"the shared directory does not answer: {error}")
            time.sleep(_OUTAGE_S)
            return False
        return self._is_over()

    def _is_over(self) -> bool:
        """Whether nothing is left to do now, or no progress is made any more."""
        syncs = self._syncs.values()
        if all(sync.is_done or sync.gave_up for sync in syncs):
            return True
        now = (sum(self.arrived.values()), sum(sync.is_done for sync in syncs), len(syncs))
        if now != self._progress[0]:
            self._progress = (now, time.monotonic())
        stall_s = self._options.timing.stall_s
        if self._options.timing.watch or time.monotonic() - self._progress[1] < stall_s:
            return False
        self._report("stalled", f"gave up: nothing arrived for {stall_s:.0f} s")
        return True

    @property
    def pause_s(self) -> float:
        """How long to wait before the next pass."""
        urgent = any(sync.is_urgent for sync in self._syncs.values())
        return min(_URGENT_S, self._options.interval_s) if urgent else self._options.interval_s

    def _step(self) -> None:
        opened = 0
        for sync in list(self._syncs.values()):
            self._heartbeat()
            before = sync.state
            if before is not SyncState.CLOSED or opened < _OPENED_PER_PASS:
                sync.step(self._client)
            opened += before is SyncState.CLOSED and sync.state is not SyncState.CLOSED
            self._note(sync)
            self.arrived[sync.id] = sync.sent.confirmed

    def rest(self, seconds: float) -> None:
        """Wait, and send heartbeats meanwhile."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self._heartbeat()
            time.sleep(min(left, self._queue.format.heartbeat_s / 4))

    def close(self) -> None:
        """Kill the clients. The next relay sends what they did not send."""
        self._pool.close()

    # Reading

    def _read(self) -> None:
        jobs = [job for job in self._options.select() if self._is_open(job)]
        runs: dict[str, list[TrackedRun]] = {}
        for job in jobs:
            self._heartbeat()
            with self._problems_of(job.id):
                runs[job.id] = [self._with_target(run) for run in self._reader.read(job)]
        still = tracked_run.unchanged(jobs, self._queue.jobs())
        for job in jobs:
            for run in runs.get(job.id, []) if job.id in still else []:
                self._add(run)
        self._seen = {job.id: job for job in jobs if job.id in still and job.id in runs}

    def _is_open(self, job: Job) -> bool:
        """Whether something of a job may have to be sent: not if it ended and all was sent."""
        now = (job.state.value, job.attempt)
        if not self._is_wanted(job):
            return False
        if job.state not in FINAL or self._options.everything:
            return self._over.get(job.id) != now
        if job.id not in self._over:
            with self._problems_of(job.id):
                spec = job.spec.tracking
                cursors = self._cursors_of(
                    self._options.entity or spec.entity, self._options.project or spec.project
                )
                cursor = cursors.load(job.id)
                self._over[job.id] = (cursor.state, cursor.attempt)
        return self._over.get(job.id) != now

    def _is_wanted(self, job: Job) -> bool:
        with self._problems_of(job.id):
            return self._sink in self._sinks.of(job)
        return False

    def _with_target(self, run: TrackedRun) -> TrackedRun:
        project = self._options.project or run.project
        return replace(run, project=project, entity=self._entity(run.entity))

    def _entity(self, entity: str | None) -> str | None:
        return self._options.entity or entity or self._pool.entity

    def _cursors_of(self, entity: str | None, project: str) -> Cursors:
        name = target(self._pool.place, self._entity(entity), project)
        if name not in self._cursors_by_target:
            self._cursors_by_target[name] = Cursors(self._queue.paths, name)
        return self._cursors_by_target[name]

    def _add(self, run: TrackedRun) -> None:
        key = (run.job, run.kind)
        sync = self._syncs.get(key)
        if sync is None:
            cursor = self._cursors.setdefault(
                run.job, self._cursors_of(run.entity, run.project).load(run.job)
            )
            sent = cursor.runs.get(run.kind, SentRows())
            if sent.gone and self._options.resend:
                sent = sent.restarted()
            sync = RunSync(run, sent, self._save, self._options.timing)
            self._syncs[key] = sync
            if sent.gone:
                sync.problem = f"{sync.id}: was deleted on the server (`--resend` sends it again)"
        sync.run = run

    def _save(self, run: TrackedRun, sent: SentRows) -> None:
        kept = {**self._cursors[run.job].runs, run.kind: sent}
        cursor = Cursor(job=run.job, runs=kept)
        self._cursors_of(run.entity, run.project).save(cursor)
        self._cursors[run.job] = cursor

    def _finish_jobs(self) -> None:
        """Record ended jobs of which everything was sent, so that they are not read again."""
        for job in self._seen.values():
            mine = [sync for (name, _), sync in self._syncs.items() if name == job.id]
            if job.state in FINAL and all(sync.is_done for sync in mine):
                self._over[job.id] = (job.state.value, job.attempt)
                if mine:
                    run = mine[0].run
                    cursor = self._cursors[job.id]
                    done = Cursor(
                        job=job.id, state=job.state, attempt=job.attempt, runs=cursor.runs
                    )
                    self._cursors_of(run.entity, run.project).save(done)
                for sync in mine:
                    del self._syncs[job.id, sync.run.kind]
                self._cursors.pop(job.id, None)

    # Counting

    def _poll(self) -> None:
        if time.monotonic() < self._poll_at:
            return
        asked: dict[tuple[str | None, str], list[RunSync]] = {}
        for sync in self._syncs.values():
            if sync.needs_count:
                asked.setdefault((sync.run.entity, sync.run.project), []).append(sync)
        try:
            for (entity, project), syncs in asked.items():
                for first in range(0, len(syncs), _COUNTED_AT_ONCE):
                    part = syncs[first : first + _COUNTED_AT_ONCE]
                    try:
                        self._count(entity, project, part)
                    except Refused as error:
                        if not error.is_final:
                            raise
                        for sync in part:  # a project without access stops no other project
                            sync.uncounted(error)
            self._poll_pause = 2.0
            self.problems.pop("", None)
        except Refused as error:
            # The server is overloaded or away: wait longer, at random so that relays spread out.
            self._poll_pause = min(2 * self._poll_pause, _POLL_MOST_S)
            self._poll_at = time.monotonic() + self._poll_pause * random.uniform(0.5, 1.0)
            self._report("", f"{error}; asking again within {self._poll_pause:.0f} s")

    def _count(self, entity: str | None, project: str, syncs: Iterable[RunSync]) -> None:
        by_id = {sync.id: sync for sync in syncs}
        ids = list(by_id)
        counts = self._pool.any().ask("count", entity=entity, project=project, ids=ids)["runs"]
        for name, sync in by_id.items():
            sync.counted(counts[name])

    # ClientPool

    def _client(self) -> ClientProcess:
        return self._pool.with_room(sync.client for sync in self._syncs.values())

    def _drop_dead(self) -> None:
        """Drop clients that died; kill those whose rows do not arrive any more."""
        for sync in self._syncs.values():
            if sync.is_stalled and sync.client is not None:
                self._report(
                    sync.id, f"{sync.id}: no row arrived for too long; restarting its client"
                )
                sync.client.kill()
        for sync in self._syncs.values():
            if sync.client is not None and not sync.client.alive:
                sync.leave()
        self._pool.drop_dead()

    # Reporting

    @contextlib.contextmanager
    def _problems_of(self, job: str) -> Generator[None]:
        try:
            yield
            self.problems.pop(job, None)
        except (JobspecError, OSError) as error:
            self._report(job, f"{job}: {error}")

    def _note(self, sync: RunSync) -> None:
        key = "/".join((sync.run.job, sync.run.kind))
        if sync.problem is None:
            self.problems.pop(key, None)
        else:
            self._report(key, sync.problem)

    def _report(self, key: str, text: str) -> None:
        if self.problems.get(key) != text:
            self.problems[key] = text
            self._say(text)

    def _heartbeat(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._last_heartbeat >= self._queue.format.heartbeat_s / 2:
            self._lock.heartbeat()
            self._last_heartbeat = now
