"""The devices a worker runs ranks on: the GPUs of its nodes, or processes on their CPUs."""

from __future__ import annotations

import os
from dataclasses import dataclass

from jobspec.errors import JobspecError
from worker.host import gpus


@dataclass(frozen=True)
class WorkerDevices:
    """What a worker runs ranks on: `count` GPUs, or `count` CPU processes, on each of its nodes."""

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
    """The GPUs this process may use, else processes on the CPU.

    Args:
        wanted: take this many; default all GPUs, or two processes on the CPU (one on one core).

    Raises:
        JobspecError: fewer GPUs than wanted.
    """
    found = gpus.answering()  # where the driver fails, no job is taken: see `missing_gpus`
    if found:
        if wanted is not None and wanted > len(found):
            raise JobspecError(
                f"{wanted} GPUs asked for, {len(found)} are visible",
                hint="ask for fewer, or give the job more: nvidia-smi -L and CUDA_VISIBLE_DEVICES",
            )
        return WorkerDevices(wanted or len(found), "cuda", found[0].name, found[0].memory_gib)
    cores = len(os.sched_getaffinity(0))
    return WorkerDevices(wanted or min(2, cores))
