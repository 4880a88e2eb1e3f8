"""Reads the scheduler's `SLURM_*` variables into typed values. No other module reads them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

_SCONTROL_S = 5.0


@dataclass(frozen=True)
class SchedulerEnv:
    """The array element in which this process runs. Without a scheduler, all fields are defaults.

    Attributes:
        job: the job id of the array element itself.
        restart_count: 0 in its first run.
        ends_at: seconds since 1970.
        nodes: on how many it may start ranks: all nodes if the batch script started it, else one.
        gpus_on_node: the GPUs that were allocated on this node.
        process_rank: this process's number in its job step.
        node_name: the name by which the scheduler knows this node.
        node_list: the names of all nodes, abbreviated; `node_names` expands it.
        tmpdir: a node-local directory of the job.
    """

    job: str | None = None
    array_job: str | None = None
    array_task: str | None = None
    cluster: str | None = None
    restart_count: int = 0
    ends_at: float | None = None
    nodes: int = 1
    gpus_on_node: int | None = None
    process_rank: int = 0
    node_name: str | None = None
    node_list: str | None = None
    tmpdir: str | None = None

    def time_left_s(self, now: float | None = None) -> float:
        """Seconds until Slurm ends the job; infinite without a known end."""
        if self.ends_at is None:
            return float("inf")
        return self.ends_at - (time.time() if now is None else now)

    @property
    def element(self) -> str | None:
        """The id that users see: `4711_3` in an array. `job` is the element's own job id."""
        return f"{self.array_job}_{self.array_task}" if self.array_job else self.job

    @property
    def ends_at_utc(self) -> str | None:
        """The end as UTC ISO 8601."""
        if self.ends_at is None:
            return None
        return datetime.fromtimestamp(self.ends_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read(env: Mapping[str, str] = os.environ) -> SchedulerEnv:
    """Read the `SLURM_*` variables.

    Source: sbatch(1), OUTPUT ENVIRONMENT VARIABLES. SLURM_RESTART_COUNT is unset on the first run.
    """
    end, gpus = env.get("SLURM_JOB_END_TIME", ""), env.get("SLURM_GPUS_ON_NODE", "")
    # A worker that `srun` started uses one node: it is one of several, or was given one node.
    in_a_step = (env.get("SLURM_STEP_ID") or "batch") != "batch"
    return SchedulerEnv(
        job=env.get("SLURM_JOB_ID"),
        array_job=env.get("SLURM_ARRAY_JOB_ID"),
        array_task=env.get("SLURM_ARRAY_TASK_ID"),
        cluster=env.get("SLURM_CLUSTER_NAME"),
        restart_count=int(env.get("SLURM_RESTART_COUNT") or 0),
        ends_at=float(end) if end.isdigit() else None,
        gpus_on_node=int(gpus) if gpus.isdigit() else None,
        process_rank=int(env.get("SLURM_PROCID") or 0),
        node_name=env.get("SLURMD_NODENAME"),
        node_list=env.get("SLURM_JOB_NODELIST"),
        tmpdir=env.get("SLURM_TMPDIR"),
        nodes=1 if in_a_step else int(env.get("SLURM_JOB_NUM_NODES") or 1),
    )


def node_names(node_list: str | None) -> list[str]:
    """The names in `node[1-3,7]`; empty if the scheduler does not tell.

    Source: scontrol(1), show hostnames.
    """
    if not node_list:
        return []
    try:
        done = subprocess.run(
            ["scontrol", "show", "hostnames", node_list],
            capture_output=True,
            check=False,
            text=True,
            timeout=_SCONTROL_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []
