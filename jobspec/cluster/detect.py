"""Which batch scheduler this host has."""

from __future__ import annotations

from collections.abc import Callable

from jobspec.cluster.scheduler import Scheduler
from jobspec.cluster.slurm import Slurm

SCHEDULERS: tuple[Callable[[], Scheduler], ...] = (Slurm,)


def scheduler() -> Scheduler:
    """The first scheduler whose commands this host has; the first of all where it has none."""
    known = [make() for make in SCHEDULERS]
    return next((each for each in known if each.is_available), known[0])
