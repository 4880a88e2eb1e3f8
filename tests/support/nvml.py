"""NVML of a machine with GPUs that this one does not have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

UUIDS = tuple(f"GPU-{index}b7c4f1e-0000-4000-8000-00000000000{index}" for index in range(8))
MIG_UUID = "MIG-41b35014-745f-5a4b-a6a0-d5e9b4b4ce4b"


def pretend_gpus(
    monkeypatch: pytest.MonkeyPatch,
    count: int = 1,
    *,
    used_gib: float = 0.6,
    processes: tuple[int, ...] = (),
    driver: int = 13000,
    throttling: int = 0,
    uncorrected: int | None = None,
    capability: tuple[int, int] = (9, 0),
) -> None:
    """Let NVML report this many GPUs of 80 GiB.

    Args:
        used_gib: memory that is in use on each.
        processes: the ids of the processes that use it; none is as if they were hidden.
        throttling: the bits of nvmlClocksEventReasons.
        uncorrected: memory errors of each; None where ECC is not supported.
        driver: the CUDA version of the driver, as NVML encodes it: 12080 is 12.8.
        capability: the compute capability of each.
    """

    def memory(handle: int) -> Any:
        return SimpleNamespace(total=80 * 2**30, used=int(used_gib * 2**30))

    def running(handle: int) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in processes]

    def errors(*given: Any) -> int:
        if uncorrected is not None:
            return uncorrected
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def by_uuid(uuid: str) -> int:
        if uuid != MIG_UUID:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return -1

    answers = {
        "nvmlDeviceGetUUID": lambda handle: MIG_UUID if handle == -1 else UUIDS[handle],
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: count,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: "NVIDIA H100 80GB HBM3",
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetComputeRunningProcesses": running,
        "nvmlDeviceGetTotalEccErrors": errors,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: throttling,
        "nvmlDeviceGetCudaComputeCapability": lambda handle: capability,
        "nvmlSystemGetCudaDriverVersion_v2": lambda: driver,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
