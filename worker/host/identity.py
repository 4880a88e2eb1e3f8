"""The name of this host and of its processor, and ids for workers on it."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from jobspec.queue.heartbeat import new_worker_id
from worker.host.scheduler_env import SchedulerEnv

_CPU = re.compile(r"^model name\s*:(.+)$", re.MULTILINE)


def short_host() -> str:
    """This host's name, up to the first dot."""
    return platform.node().split(".")[0].lower() or "host"


def worker_id(scheduler: SchedulerEnv) -> str:
    """A new id for this process: the host, the scheduler's ids, and random digits."""
    run = (scheduler.job, str(scheduler.restart_count)) if scheduler.job else ()
    return new_worker_id(short_host(), *run)


def cpu(said: Path = Path("/proc/cpuinfo")) -> str:
    """The model of the CPU; its architecture where the kernel does not tell."""
    try:
        found = _CPU.search(said.read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()
