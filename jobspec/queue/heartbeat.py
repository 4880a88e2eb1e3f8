"""Beats and silence: who lives, as one reader has seen it on its own clock.

A worker beats by renaming `queue/workers/<worker>.<counter>.<job or idle>`: one call that needs no
free space. A reader lists that directory and counts how long a claim's worker has been silent: its
beat absent, unmoved, or not naming the job. Only time that the reader really saw counts, so neither
a frozen reader nor a frozen filesystem kills anybody.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from jobspec.errors import DiskFull
from jobspec.records.base import encode
from jobspec.records.worker import WorkerRecord
from jobspec.storage import fs
from jobspec.storage.layout import JOB_PATTERN, WORKER_PATTERN, RootPaths

IDLE = "idle"
_BEAT = re.compile(
    rf"(?P<worker>{WORKER_PATTERN.pattern})\.(?P<counter>[0-9]{{1,12}})"
    rf"\.(?P<job>{JOB_PATTERN.pattern}|{IDLE})"
)


@dataclass(frozen=True, slots=True)
class Beat:
    """One sighting of a worker: its counter and the job it says it holds."""

    worker: str
    counter: int
    job: str | None

    @property
    def name(self) -> str:
        return f"{self.worker}.{self.counter}.{self.job or IDLE}"


class Pulse:
    """One worker's own beat, as its process writes it."""

    def __init__(self, root: RootPaths, worker: str) -> None:
        self._root = root
        self._worker = worker
        # Random, so that a process under a reused name never repeats its predecessor's counters.
        self._last = Beat(worker, int.from_bytes(os.urandom(8)) % 10**11, None)

    def beat(self, job: str | None) -> None:
        """Move the counter, naming the job held. Raises OSError where the root doesn't answer."""
        following = Beat(self._worker, self._last.counter + 1, job)
        target = self._root.workers / following.name
        if not fs.move_once(self._root.workers / self._last.name, target):
            fs.touch(target)
        self._last = following


def parse_beat(name: str) -> Beat | None:
    """The beat a name stands for; None for the other names in `queue/workers/`."""
    found = _BEAT.fullmatch(name)
    if found is None:
        return None
    job = None if found["job"] == IDLE else found["job"]
    return Beat(found["worker"], int(found["counter"]), job)


def parse_record(name: str) -> str | None:
    """The worker whose `<worker>.json` this is; None for other names."""
    worker = name.removesuffix(".json")
    return worker if worker != name and WORKER_PATTERN.fullmatch(worker) else None


def beats_in(names: Iterable[str]) -> list[Beat]:
    """The beats among the names in `queue/workers/`."""
    return [beat for name in names if (beat := parse_beat(name)) is not None]


def write_record(root: RootPaths, worker: str, record: WorkerRecord) -> None:
    """Refresh who a worker is. Without space it stays as it was: nothing depends on it."""
    with contextlib.suppress(DiskFull):
        fs.replace(root.worker(worker), encode(record))


def remove_files(root: RootPaths, worker: str) -> None:
    """Remove all that a worker has in `queue/workers/`."""
    for name in fs.list_names(root.workers):
        if name.partition(".")[0] == worker:
            fs.remove(root.workers / name)


def new_worker_id(*parts: str) -> str:
    """An id for this process: `parts` for people, and 64 random bits.

    Slurm gives the same names again, and two processes under one name could claim one job.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")[:63].strip("-")
    return f"{slug or 'worker'}-{os.urandom(8).hex()}"


@dataclass
class _Seen:
    counters: set[int]
    silent_s: float = 0.0


@dataclass
class Watch:
    """What one reader saw of others' beats; ask it again and again, it remembers.

    A key is a worker and the job it claims, or None for the worker itself.
    """

    _last_read: float | None = None
    _seen: dict[tuple[str, str | None], _Seen] = field(
        default_factory=dict[tuple[str, str | None], _Seen]
    )

    def look(
        self,
        keys: Iterable[tuple[str, str | None]],
        beats: Iterable[Beat],
        now: float,
        cap_s: float,
    ) -> None:
        """Take in one successful read.

        Args:
            keys: whose silence is counted; others are forgotten.
            beats: all that the read found.
            now: the reader's monotonic clock, taken before the read.
            cap_s: the most that one gap between two reads may count.
        """
        gap = 0.0 if self._last_read is None else min(max(now - self._last_read, 0.0), cap_s)
        self._last_read = now
        found = _by_key(beats)
        seen: dict[tuple[str, str | None], _Seen] = {}
        for key in keys:
            counters = found.get(key, set[int]())
            before = self._seen.get(key)
            if before is None or counters - before.counters:
                seen[key] = _Seen(counters)
            else:
                seen[key] = _Seen(before.counters, before.silent_s + gap)
        self._seen = seen

    def silent_workers(self, at_least_s: float) -> set[str]:
        """Workers of whom nothing at all has moved for so long."""
        return {
            worker
            for (worker, job), seen in self._seen.items()
            if job is None and seen.silent_s >= at_least_s
        }

    def silent_s(self, worker: str, job: str | None = None) -> float:
        """Seconds of silence seen; 0 for whom this reader has not looked at."""
        seen = self._seen.get((worker, job))
        return 0.0 if seen is None else seen.silent_s


def _by_key(beats: Iterable[Beat]) -> dict[tuple[str, str | None], set[int]]:
    """The counters under which a worker named a job; under None, all of that worker's."""
    found: dict[tuple[str, str | None], set[int]] = {}
    for beat in beats:
        found.setdefault((beat.worker, None), set()).add(beat.counter)
        if beat.job is not None:
            found.setdefault((beat.worker, beat.job), set()).add(beat.counter)
    return found
