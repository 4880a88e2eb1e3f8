"""The name of this host, and ids for workers on it."""

from __future__ import annotations

import platform

from jobspec.queue.heartbeat import new_worker_id
from worker.host.scheduler_env import SchedulerEnv


def short_host() -> str:
    """This host's name, up to the first dot."""
    return platform.node().split(".")[0].lower() or "host"


def worker_id(scheduler: SchedulerEnv) -> str:
    """A new id for this process: the host, the scheduler's ids, and random digits."""
    run = (scheduler.job, str(scheduler.restart_count)) if scheduler.job else ()
    return new_worker_id(short_host(), *run)
