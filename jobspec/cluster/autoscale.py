"""As many array elements as the queue needs: more where jobs wait, none where nothing does.

Idle workers leave by themselves (`--idle-timeout`), so this only ever adds. It may run from cron,
on several login nodes at once: one of them has the turn, the others do nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jobspec.cluster import batch_script, reaping
from jobspec.cluster.slurm import Slurm
from jobspec.errors import JobspecError
from jobspec.records.base import State
from jobspec.storage import fs, tempfiles

if TYPE_CHECKING:
    from pathlib import Path

    from jobspec.cluster.site import Site
    from jobspec.queue.entries import Job
    from jobspec.queue.queue import Queue

_TURN = "turn."
_STAMP = "%Y%m%dT%H%M%S"
_TURN_S = 600.0  # longer than any sbatch takes; then who had the turn is taken for dead


@dataclass(frozen=True)
class Need:
    """What the queue needs of Slurm. `unfit` jobs want more than an element has."""

    work: int
    have: int
    unfit: int
    missing: int
    reaped: tuple[str, ...] = ()
    why: str = ""


def need(queue: Queue, site: Site, slurm: Slurm, most: int, user: str) -> Need:
    """Look at queue and Slurm, taking back first what dead workers hold.

    Args:
        most: elements there may be, waiting or running.
        user: whose elements count.

    Raises:
        JobspecError: Slurm doesn't answer: then nobody knows what is there already.
    """
    reaped = reaping.watch(queue, slurm)
    elements = slurm.elements(batch_script.job_name(site.root), user)
    if elements is None:
        raise JobspecError("Slurm doesn't answer", hint="nothing was submitted; try again later")
    jobs = [*queue.jobs(State.PENDING), *queue.jobs(State.RUNNING)]
    fits = [job for job in jobs if _fits(job, site)]
    held = queue.on_hold()
    wanted = 0 if held is not None else min(most, len(fits))
    return Need(
        work=len(fits),
        have=len(elements),
        unfit=len(jobs) - len(fits),
        missing=max(0, wanted - len(elements)),
        reaped=tuple(reaped),
        why="the queue is on hold" if held is not None else "",
    )


@contextlib.contextmanager
def turn(root: Path) -> Generator[bool]:
    """Whether this process may submit now; only one at a time may.

    The turn is a file; who renames it has it, and renames it back. Submitting twice would spoil
    nothing, so a clock may decide that one who died holds it no longer.
    """
    place = root / "slurm"
    fs.make_dir(place)
    names = [name for name in fs.list_names(place) if name.startswith(_TURN)]
    free = place / f"{_TURN}free"
    mine = place / f"{_TURN}{datetime.now(UTC):{_STAMP}}.{tempfiles.host()}-{os.getpid()}"
    if not names:
        fs.touch(free)  # RACE: two may make it; it is one file all the same
        names = [free.name]
    took = any(_is_free(name) and fs.move_once(place / name, mine) for name in names)
    try:
        yield took
    finally:
        if took:
            fs.move_once(mine, free)


def _is_free(name: str) -> bool:
    stamp = name.removeprefix(_TURN).partition(".")[0]
    try:
        taken = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return stamp == "free"
    return (datetime.now(UTC) - taken).total_seconds() > _TURN_S


def _fits(job: Job, site: Site) -> bool:
    """Whether an element's GPUs are enough; a job that can't be read is some worker's to judge."""
    try:
        gpus = job.spec.resources.gpus
    except (JobspecError, OSError):
        return True
    return gpus is None or int(site.gpus) == 0 or gpus <= int(site.gpus)
