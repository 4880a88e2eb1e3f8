"""What a worker publishes about itself."""

from __future__ import annotations

from jobspec.records.base import Record


class WorkerRecord(Record, frozen=True, kw_only=True):
    """`queue/workers/<worker>.json`: who a worker is and what it is doing.

    The worker rewrites it about once a minute and whenever its job or phase changes.

    Attributes:
        helps: the job of another worker whose samples it helps to generate while it has none.
        busy_s: seconds since `started_at` during which it held a job.
    """

    worker: str
    host: str = ""
    pid: int = 0
    started_at: str = ""
    updated_at: str = ""
    gpus: int = 0
    gpu_name: str | None = None
    gpu_memory_gib: float | None = None
    slurm_cluster: str | None = None
    slurm_job: str | None = None
    slurm_restart_count: int = 0
    slurm_element: str | None = None
    ends_at: str | None = None
    job: str | None = None
    attempt: int | None = None
    phase: str | None = None
    note: str | None = None
    helps: str | None = None
    version: str = ""
    busy_s: float | None = None
