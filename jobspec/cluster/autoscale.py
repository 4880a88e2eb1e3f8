"""Submit as many workers as the queue needs: more while jobs wait, none for an empty queue.

This only adds workers: idle ones leave by themselves (`--idle-timeout`). It may run from cron on
several login nodes at once; one process holds the lock, the others do nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jobspec.cluster import batch_script, reaping
from jobspec.errors import JobspecError
from jobspec.records.base import FINAL
from jobspec.storage import fs, tempfiles
from jobspec.storage.layout import RootPaths

if TYPE_CHECKING:
    from pathlib import Path

    from jobspec.cluster.scheduler import Scheduler
    from jobspec.cluster.site import Site
    from jobspec.queue.job import Job
    from jobspec.queue.queue import Queue

_LOCK = RootPaths.SUBMIT_LOCK
_FREE = "free"
_STAMP = "%Y%m%dT%H%M%S"
_STALE_S = 600.0  # longer than any submission takes: after that the holder is considered dead


@dataclass(frozen=True)
class Need:
    """Field by field what `jobspec scale --json` prints.

    `work`: unfinished jobs that fit an element. `have`: waiting and running elements. `unfit`: jobs
    that want more GPUs than an element has. `missing`: elements to submit.
    """

    work: int
    have: int
    unfit: int
    missing: int
    reaped: tuple[str, ...] = ()
    why: str = ""


def need(queue: Queue, site: Site, scheduler: Scheduler, most: int, user: str) -> Need:
    """Reap dead workers, then compare the queue with the scheduler's elements.

    Args:
        most: the limit of waiting and running elements.
        user: whose elements count.

    Raises:
        JobspecError: the scheduler does not answer, so the number of elements is unknown.
    """
    reaped = reaping.watch(queue, scheduler)
    elements = scheduler.elements(batch_script.job_name(site.root), user)
    if elements is None:
        raise JobspecError("Slurm does not answer", hint="nothing was submitted; try again later")
    jobs = [job for job in queue.jobs() if job.state not in FINAL]
    fitting = [job for job in jobs if _fits(job, site)]
    hold = queue.on_hold()
    wanted = 0 if hold is not None else min(most, len(fitting))
    return Need(
        work=len(fitting),
        have=len(elements),
        unfit=len(jobs) - len(fitting),
        missing=max(0, wanted - len(elements)),
        reaped=tuple(reaped),
        why="the queue is on hold" if hold is not None else "",
    )


@contextlib.contextmanager
def lock(root: Path) -> Generator[bool]:
    """Hold the lock that lets one process at a time submit; yields whether this process got it.

    The lock is a file: its holder renames it to a name with a time, and back when it is done.
    Two submissions at once would only start too many workers, so a clock may decide when a lock
    of a dead process is void.
    """
    directory = RootPaths(root).batch_logs
    fs.make_dir(directory)
    names = [name for name in fs.list_names(directory) if name.startswith(_LOCK)]
    free = directory / f"{_LOCK}{_FREE}"
    mine = directory / f"{_LOCK}{datetime.now(UTC):{_STAMP}}.{tempfiles.host()}-{os.getpid()}"
    if not names:
        fs.touch(free)  # RACE: two processes may create it; it is the same file
        names = [free.name]
    acquired = any(_is_free(name) and fs.move_once(directory / name, mine) for name in names)
    try:
        yield acquired
    finally:
        if acquired:
            fs.move_once(mine, free)


def _is_free(name: str) -> bool:
    stamp = name.removeprefix(_LOCK).partition(".")[0]
    try:
        acquired_at = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return stamp == _FREE
    return (datetime.now(UTC) - acquired_at).total_seconds() > _STALE_S


def _fits(job: Job, site: Site) -> bool:
    """Whether an element has enough GPUs. An unreadable job counts: a worker will report it."""
    try:
        gpus = job.spec.resources.gpus
    except (JobspecError, OSError):
        return True
    return gpus is None or int(site.gpus) == 0 or gpus <= int(site.gpus)
