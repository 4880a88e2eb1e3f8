"""All runs, pass after pass: read the files, ask the server for its counts, feed what is behind."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace

from jobspec.errors import DiskFull, JobspecError
from jobspec.queue.entries import Job
from jobspec.queue.queue import Queue
from jobspec.records.base import FINAL
from jobspec.relay import wandb_run
from jobspec.relay.client import Link, Refused
from jobspec.relay.client_pool import Clients
from jobspec.relay.cursor import Cursor, Cursors, Sent, target
from jobspec.relay.lock import Writer
from jobspec.relay.reader import Reader
from jobspec.relay.sync import Feed, Phase, Timing
from jobspec.relay.wandb_run import Run

_COUNTED_AT_ONCE = 50  # runs a query
_OPENED_A_PASS = 100  # W&B takes 80 new runs a second
_POLL_MOST_S = 60.0
_URGENT_S = 1.0
_OUTAGE_S = 5.0


@dataclass(frozen=True)
class Options:
    """What the command line says. `select` gives the jobs meant, of those there are now."""

    select: Callable[[], list[Job]]
    project: str | None = None
    entity: str | None = None
    settled: bool = False
    resend: bool = False
    everything: bool = False  # look at ended jobs, too, whose runs were told all
    interval_s: float = 15.0  # between two readings of the files
    timing: Timing = field(default_factory=Timing)


class Relay:
    """The jobs' files on one side, W&B on the other.

    Args:
        writer: proof that no other relay runs.
        say: for problems as they come up.
    """

    def __init__(
        self, queue: Queue, options: Options, writer: Writer, say: Callable[[str], None]
    ) -> None:
        self._queue = queue
        self._options = options
        self._writer = writer
        self._say = say
        self._last_beat = time.monotonic()
        self._feeds: dict[tuple[str, str], Feed] = {}
        self._cursors: dict[str, Cursor] = {}
        self._stores: dict[str, Cursors] = {}
        self._seen: dict[str, Job] = {}
        self._reader = Reader(settled=options.settled)
        self._over: dict[str, tuple[str, int]] = {}
        self._read_at = float("-inf")
        self._progress: tuple[tuple[int, ...], float] = ((), time.monotonic())
        self._poll_at, self._poll_pause = 0.0, 2.0
        self.problems: dict[str, str] = {}
        self.arrived: dict[str, int] = {}  # by run, the rows that the server was seen to have
        self._clients = Clients(self._beat)

    def once(self) -> bool:
        """One pass.

        Returns:
            Whether everything there is by now has arrived, or was given up.
        """
        try:
            self._beat(force=True)
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
            self._trouble("root", f"the root does not answer: {error}")
            time.sleep(_OUTAGE_S)
            return False
        return self._is_over()

    def _is_over(self) -> bool:
        """Whether nothing is left to do by now, or nothing gets done any more."""
        feeds = self._feeds.values()
        if all(feed.is_done or feed.gave_up for feed in feeds):
            return True
        now = (sum(self.arrived.values()), sum(feed.is_done for feed in feeds), len(feeds))
        if now != self._progress[0]:
            self._progress = (now, time.monotonic())
        stall_s = self._options.timing.stall_s
        if self._options.timing.watch or time.monotonic() - self._progress[1] < stall_s:
            return False
        self._trouble("stalled", f"gave up: nothing arrived for {stall_s:.0f} s")
        return True

    @property
    def pause_s(self) -> float:
        """How long the next pass may wait."""
        urgent = any(feed.is_urgent for feed in self._feeds.values())
        return min(_URGENT_S, self._options.interval_s) if urgent else self._options.interval_s

    def _step(self) -> None:
        opened = 0
        for feed in list(self._feeds.values()):
            self._beat()
            before = feed.phase
            if before is not Phase.CLOSED or opened < _OPENED_A_PASS:
                feed.step(self._link)
            opened += before is Phase.CLOSED and feed.phase is not Phase.CLOSED
            self._note(feed)
            self.arrived[feed.id] = feed.sent.confirmed

    def rest(self, seconds: float) -> None:
        """Wait, and beat meanwhile."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self._beat()
            time.sleep(min(left, self._queue.format.heartbeat_s / 4))

    def close(self) -> None:
        """Kill the clients. What they had not sent yet, the next relay sends."""
        self._clients.close()

    # Reading

    def _read(self) -> None:
        jobs = [job for job in self._options.select() if self._is_news(job)]
        found: dict[str, list[Run]] = {}
        for job in jobs:
            self._beat()
            with self._troubles_of(job.id):
                found[job.id] = [self._placed(run) for run in self._reader.read(job)]
        still = wandb_run.unchanged(jobs, self._queue.jobs())
        for job in jobs:
            for run in found.get(job.id, []) if job.id in still else []:
                self._take_in(run)
        self._seen = {job.id: job for job in jobs if job.id in still and job.id in found}

    def _is_news(self, job: Job) -> bool:
        """Whether something may have to be sent: not for a job whose end was told all."""
        now = (job.state.value, job.attempt)
        if job.state not in FINAL or self._options.everything:
            return self._over.get(job.id) != now
        if job.id not in self._over:
            with self._troubles_of(job.id):
                spec = job.spec.tracking
                store = self._store(
                    self._options.entity or spec.entity, self._options.project or spec.project
                )
                cursor = store.load(job.id)
                self._over[job.id] = (cursor.state, cursor.attempt)
        return self._over.get(job.id) != now

    def _placed(self, run: Run) -> Run:
        project = self._options.project or run.project
        return replace(run, project=project, entity=self._entity(run.entity))

    def _entity(self, entity: str | None) -> str | None:
        return self._options.entity or entity or self._clients.entity

    def _store(self, entity: str | None, project: str) -> Cursors:
        name = target(self._clients.base_url, self._entity(entity), project)
        if name not in self._stores:
            self._stores[name] = Cursors(self._queue.paths, name)
        return self._stores[name]

    def _take_in(self, run: Run) -> None:
        key = (run.job, run.kind)
        feed = self._feeds.get(key)
        if feed is None:
            cursor = self._cursors.setdefault(
                run.job, self._store(run.entity, run.project).load(run.job)
            )
            sent = cursor.runs.get(run.kind, Sent())
            if sent.gone and self._options.resend:
                sent = sent.anew()
            feed = Feed(run, sent, self._save, self._options.timing)
            self._feeds[key] = feed
            if sent.gone:
                feed.problem = f"{feed.id}: was deleted on the server (`--resend` sends it again)"
        feed.run = run

    def _save(self, run: Run, sent: Sent) -> None:
        kept = {**self._cursors[run.job].runs, run.kind: sent}
        cursor = Cursor(job=run.job, runs=kept)
        self._store(run.entity, run.project).save(cursor)
        self._cursors[run.job] = cursor

    def _finish_jobs(self) -> None:
        """Remember of ended jobs whose runs were told all that nothing is to be done for them."""
        for job in self._seen.values():
            mine = [feed for (name, _), feed in self._feeds.items() if name == job.id]
            if job.state in FINAL and all(feed.is_done for feed in mine):
                self._over[job.id] = (job.state.value, job.attempt)
                if mine:
                    run = mine[0].run
                    cursor = self._cursors[job.id]
                    done = Cursor(
                        job=job.id, state=job.state, attempt=job.attempt, runs=cursor.runs
                    )
                    self._store(run.entity, run.project).save(done)
                for feed in mine:
                    del self._feeds[job.id, feed.run.kind]
                self._cursors.pop(job.id, None)

    # Counting

    def _poll(self) -> None:
        if time.monotonic() < self._poll_at:
            return
        asked: dict[tuple[str | None, str], list[Feed]] = {}
        for feed in self._feeds.values():
            if feed.needs_count:
                asked.setdefault((feed.run.entity, feed.run.project), []).append(feed)
        try:
            for (entity, project), feeds in asked.items():
                for first in range(0, len(feeds), _COUNTED_AT_ONCE):
                    part = feeds[first : first + _COUNTED_AT_ONCE]
                    try:
                        self._count(entity, project, part)
                    except Refused as error:
                        if not error.is_final:
                            raise
                        for feed in part:  # a project that is closed to us stops no other
                            feed.refused(error)
            self._poll_pause = 2.0
            self.problems.pop("", None)
        except Refused as error:
            # The server has enough, or is away: everybody waits longer, not in step with others.
            self._poll_pause = min(2 * self._poll_pause, _POLL_MOST_S)
            self._poll_at = time.monotonic() + self._poll_pause * random.uniform(0.5, 1.0)
            self._trouble("", str(error))

    def _count(self, entity: str | None, project: str, feeds: Iterable[Feed]) -> None:
        by_id = {feed.id: feed for feed in feeds}
        ids = list(by_id)
        found = self._clients.any().ask("count", entity=entity, project=project, ids=ids)["runs"]
        for name, feed in by_id.items():
            feed.counted(found[name])

    # Clients

    def _link(self) -> Link:
        return self._clients.with_room(feed.link for feed in self._feeds.values())

    def _drop_dead(self) -> None:
        """Leave clients that died; kill those that bring nothing over the line any more."""
        for feed in self._feeds.values():
            if feed.is_stalled and feed.link is not None:
                self._trouble(feed.id, f"{feed.id}: no row arrived for long; its client is killed")
                feed.link.kill()
        for feed in self._feeds.values():
            if feed.link is not None and not feed.link.alive:
                feed.leave()
        self._clients.drop_dead()

    # Telling

    @contextlib.contextmanager
    def _troubles_of(self, job: str) -> Generator[None]:
        try:
            yield
            self.problems.pop(job, None)
        except (JobspecError, OSError) as error:
            self._trouble(job, f"{job}: {error}")

    def _note(self, feed: Feed) -> None:
        key = "/".join((feed.run.job, feed.run.kind))
        if feed.problem is None:
            self.problems.pop(key, None)
        else:
            self._trouble(key, feed.problem)

    def _trouble(self, key: str, text: str) -> None:
        if self.problems.get(key) != text:
            self.problems[key] = text
            self._say(text)

    def _beat(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._last_beat >= self._queue.format.heartbeat_s / 2:
            self._writer.beat()
            self._last_beat = now
