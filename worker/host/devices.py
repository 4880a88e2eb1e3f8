"""The devices on which a worker runs ranks: the GPUs of its nodes, or processes on their CPUs."""

from __future__ import annotations

import os
from dataclasses import dataclass

from jobspec.errors import JobspecError
from worker.host import gpus


@dataclass(frozen=True)
class WorkerDevices:
    """The devices of a worker: `count` GPUs or `count` CPU processes on each of its nodes."""

    count: int
    kind: str = "cpu"
    name: str | None = None
    memory_gib: float | None = None
    nodes: int = 1

    @property
    def on_gpu(self) -> bool:
        return self.kind == "cuda"

    @property
    def total(self) -> int:
        """Devices on all nodes."""
        return self.count * self.nodes


def visible_devices(wanted: int | None = None) -> WorkerDevices:
    """The GPUs that this process may use; without GPUs, processes on the CPU.

    Args:
        wanted: how many to use. Default: all GPUs, or two processes on the CPU (one on one core).

    Raises:
        JobspecError: there are fewer GPUs than `wanted`.
    """
    # If the driver fails, `missing_gpus` keeps the worker from claiming.
    visible = gpus.answering()
    if visible:
        if wanted is not None and wanted > len(visible):
            raise JobspecError(
                f"{wanted} GPUs were requested, but {len(visible)} are visible",
                hint="request fewer, or allocate more: `nvidia-smi -L` or `rocm-smi` lists them, "
                "CUDA_VISIBLE_DEVICES, ROCR_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES hide some",
            )
        return WorkerDevices(wanted or len(visible), "cuda", visible[0].name, visible[0].memory_gib)
    cores = len(os.sched_getaffinity(0))
    return WorkerDevices(wanted or min(2, cores))
