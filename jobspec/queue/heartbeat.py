"""Heartbeats of workers, and how long each worker has been silent.

A worker sends heartbeats by renaming `queue/workers/<worker>.<counter>.<job or idle>`, which is one
call and needs no free space. A reader lists that directory. For each claim it counts how long the
worker has been silent: the heartbeat is missing, its counter has not changed, or it does not name
the job. The reader uses only its own clock, and only time between two reads that succeeded. So a
reader or a filesystem that hangs does not make workers look dead.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from jobspec.errors import DiskFull
from jobspec.records.base import encode
from jobspec.records.worker import WorkerRecord
from jobspec.storage import fs
from jobspec.storage.layout import JOB_PATTERN, WORKER_PATTERN, RootPaths

IDLE = "idle"
_HEARTBEAT_NAME = re.compile(
    rf"(?P<worker>{WORKER_PATTERN.pattern})\.(?P<counter>[0-9]{{1,12}})"
    rf"\.(?P<job>{JOB_PATTERN.pattern}|{IDLE})"
)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A heartbeat of a worker: its counter, and the job that the worker holds."""

    worker: str
    counter: int
    job: str | None

    @property
    def name(self) -> str:
        return f"{self.worker}.{self.counter}.{self.job or IDLE}"


class HeartbeatWriter:
    """Sends the heartbeats of this process's own worker."""

    def __init__(self, root: RootPaths, worker: str) -> None:
        self._root = root
        self._worker = worker
        # Random, so that a new process with the same worker id does not repeat old counters.
        self._counter = int.from_bytes(os.urandom(8)) % 10**11
        # The name that is there; None if that is unknown, because a reply was lost.
        self._last: str | None = Heartbeat(worker, self._counter, None).name

    def send(self, job: str | None) -> None:
        """Send a heartbeat that names the job held. Raises OSError if the root does not answer."""
        self._counter += 1  # also after an error: the name may be there already and say nothing new
        name = Heartbeat(self._worker, self._counter, job).name
        target = self._root.workers / name
        before = self._names_found() if self._last is None else [self._last]
        self._last = None
        moved = [fs.move_once(self._root.workers / each, target) for each in before]
        if not any(moved):
            fs.touch(target)
        self._last = name

    def _names_found(self) -> list[str]:
        """This worker's heartbeats in the directory: the last rename's reply did not arrive."""
        found = parse_heartbeats(fs.list_dir(self._root.workers))
        return [each.name for each in found if each.worker == self._worker]


def parse_heartbeat(name: str) -> Heartbeat | None:
    """Parse a name in `queue/workers/`. Returns None if it is not a heartbeat."""
    match = _HEARTBEAT_NAME.fullmatch(name)
    if match is None:
        return None
    job = None if match["job"] == IDLE else match["job"]
    return Heartbeat(match["worker"], int(match["counter"]), job)


def parse_record(name: str) -> str | None:
    """The worker id of a name `<worker>.json`; None for other names."""
    worker = name.removesuffix(".json")
    return worker if worker != name and WORKER_PATTERN.fullmatch(worker) else None


def parse_heartbeats(names: Iterable[str]) -> list[Heartbeat]:
    """Parse the heartbeats among the names in `queue/workers/`."""
    return [heartbeat for name in names if (heartbeat := parse_heartbeat(name)) is not None]


def write_record(root: RootPaths, worker: str, record: WorkerRecord) -> None:
    """Write `<worker>.json`. On a full disk the old file stays, because no decision needs it."""
    with contextlib.suppress(DiskFull):
        fs.replace(root.worker(worker), encode(record))


def remove_files(root: RootPaths, worker: str) -> None:
    """Remove all files of a worker in `queue/workers/`."""
    for name in fs.list_names(root.workers):
        if name.partition(".")[0] == worker:
            fs.remove(root.workers / name)


def new_worker_id(*parts: str) -> str:
    """Make an id for this process from readable `parts` and 64 random bits.

    The random bits are needed because Slurm reuses names, and two processes with the same id could
    claim one job.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")[:63].strip("-")
    return f"{slug or 'worker'}-{os.urandom(8).hex()}"


@dataclass
class _Silence:
    counters: set[int]
    silent_s: float = 0.0


class Watched(NamedTuple):
    """Whose silence is counted: a worker's as such, or the one of its claim on an attempt.

    A worker can claim a job again that it lost: the silence of the earlier attempt is not the new
    one's, although the heartbeats of both name the same job.
    """

    worker: str
    job: str | None = None
    attempt: int = 0


@dataclass
class SilenceMonitor:
    """Counts the silence of workers over repeated reads by one process."""

    _last_read: float | None = None
    _seen: dict[Watched, _Silence] = field(default_factory=dict[Watched, _Silence])

    def observe(
        self,
        watched: Iterable[Watched],
        heartbeats: Iterable[Heartbeat],
        read: tuple[float, float],
        cap_s: float,
    ) -> None:
        """Add one successful read.

        Args:
            watched: whose silence is counted; all others are forgotten.
            heartbeats: all heartbeats in the listing.
            read: the reader's monotonic clock just before and just after the listing. Silence
                counts from the end of the read that found a new heartbeat to the beginning of the
                last one, so that it is never longer than it was.
            cap_s: the maximum that is counted for the time between two reads.
        """
        now, after = read
        gap = 0.0 if self._last_read is None else min(max(now - self._last_read, 0.0), cap_s)
        self._last_read = now
        by_key = _by_key(heartbeats)
        seen: dict[Watched, _Silence] = {}
        for key in watched:
            counters = by_key.get((key.worker, key.job), set[int]())
            before = self._seen.get(key)
            if before is None or counters - before.counters:
                seen[key] = _Silence(counters, min(now - after, 0.0))
            else:
                seen[key] = _Silence(before.counters, before.silent_s + gap)
        self._seen = seen

    def silent_workers(self, at_least_s: float) -> set[str]:
        """Workers without any heartbeat for at least this many seconds."""
        return {
            key.worker
            for key, seen in self._seen.items()
            if key.job is None and seen.silent_s >= at_least_s
        }

    def silent_s(self, watched: Watched) -> float:
        """Seconds of silence; 0 for one that was not watched in the last read."""
        seen = self._seen.get(watched)
        return 0.0 if seen is None else max(seen.silent_s, 0.0)


def _by_key(heartbeats: Iterable[Heartbeat]) -> dict[tuple[str, str | None], set[int]]:
    """The counters of each worker and job; the key with None has all counters of the worker."""
    by_key: dict[tuple[str, str | None], set[int]] = {}
    for heartbeat in heartbeats:
        by_key.setdefault((heartbeat.worker, None), set()).add(heartbeat.counter)
        if heartbeat.job is not None:
            by_key.setdefault((heartbeat.worker, heartbeat.job), set()).add(heartbeat.counter)
    return by_key
