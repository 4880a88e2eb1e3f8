"""Which batch scheduler this host has."""

from __future__ import annotations

from jobspec.cluster.scheduler import Scheduler
from jobspec.cluster.slurm import Slurm


def scheduler() -> Scheduler:
    """The scheduler of this host: Slurm, the only one that is supported."""
    return Slurm()
