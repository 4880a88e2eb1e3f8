"""What a worker publishes about itself."""

from __future__ import annotations

from jobspec.records.base import Record


class WorkerRecord(Record, frozen=True, kw_only=True):
    """`queue/workers/<worker>.json`: who a worker is and what it is doing.

    The worker rewrites it about once a minute and whenever its job or phase changes.

    Attributes:
        nodes: the other hosts on which it runs ranks, once they have answered its node probe.
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
    nodes: tuple[str, ...] = ()
    version: str = ""
    busy_s: float | None = None


class NodeProbe(Record, frozen=True, kw_only=True):
    """`queue/probes/….json`: what a worker measured of its node before its first claim.

    A figure is null if it was not measured.

    Attributes:
        kind: of the devices, such as `8 × NVIDIA H200`; nodes of one kind are compared.
        uuids: of the GPUs that were measured.
        seconds: how long the probe took.
        matmul_tflops: TFLOP/s of a matrix product: bf16 on the slowest GPU (fp16 before Ampere), or
            float32 on all cores of a node without GPUs.
        all_reduce_gb_s: bus bandwidth in GB/s of an all-reduce by NCCL between the GPUs.
        gpu_free_gib: free memory of the GPU that has the least.
        disk_mb_s, root_mb_s: MB/s of writing and fsyncing to the node-local directory and the root.
        root_ms: median milliseconds of publishing 4 KiB in the root.
        clock_ahead_s: the clock that stamps the root's files minus the node's.
        throttling: why a GPU's hardware lowered its clocks during the matrix product.
        uncorrected_errors: of the GPUs' memory since the driver was loaded.
        fault: why the node can't be used: a measurement on its GPUs failed or hung.
        not_measured: parts without a figure, each with the reason.
    """

    host: str
    kind: str
    uuids: tuple[str, ...] = ()
    at: str = ""
    seconds: float = 0.0
    matmul_tflops: float | None = None
    all_reduce_gb_s: float | None = None
    gpu_free_gib: float | None = None
    disk_mb_s: float | None = None
    root_mb_s: float | None = None
    root_ms: float | None = None
    clock_ahead_s: float | None = None
    throttling: tuple[str, ...] = ()
    uncorrected_errors: int = 0
    fault: str = ""
    not_measured: tuple[str, ...] = ()
