"""The options of a worker."""

from __future__ import annotations

from dataclasses import dataclass

from worker.launch.launcher import SRUN


@dataclass(frozen=True)
class WorkerOptions:
    """Options of a worker. Times are in seconds; `None` means no limit.

    `jobs`: the ids of the only jobs to run; empty for all. `probe`: measure the node first.
    """

    drain: bool = False
    max_jobs: int | None = None
    idle_timeout_s: float | None = None
    time_limit_s: float | None = None
    stall_s: float = 3600.0
    grace_s: float = 600.0
    devices: int | None = None
    isolation: str = "auto"
    min_claim_s: float = 60.0
    stop_margin_s: float = 30.0
    unfit_timeout_s: float = 600.0
    poll: bool = False
    launcher: str = SRUN
    jobs: frozenset[str] = frozenset()
    probe: bool = True
