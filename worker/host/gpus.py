"""The GPUs that this process may use: NVIDIA's, read with NVML, or AMD's; without torch."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jobspec.errors import JobspecError
from worker.host import amd_gpus, gpu_selection
from worker.host.amd_gpus import AmdGpu


@dataclass(frozen=True)
class Gpu:
    """One GPU that this process may use, as its driver reports it.

    Attributes:
        memory_gib: all of its memory.
        used_gib: what the driver and processes use now.
        processes: their ids. Empty too where the driver does not show those of other users.
        uuid: of NVIDIA's GPUs only.
        throttling: why the hardware lowers the clocks now.
        capability: CUDA's compute capability; None for AMD's.
    """

    name: str
    memory_gib: float
    uncorrected_errors: int = 0
    used_gib: float = 0.0
    processes: tuple[int, ...] = ()
    uuid: str = ""
    throttling: tuple[str, ...] = ()
    capability: tuple[int, int] | None = None


# Bits that NVML names nvmlClocksEventReason…; a limit of power or an idle GPU is no fault.
_THROTTLING = {
    0x08: "hardware slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


class GpuError(JobspecError):
    """The driver is installed but fails: a device is lost, or its library has another version."""


def visible() -> list[Gpu]:
    """The GPUs that the variables of CUDA or ROCm allow; none without a driver or an allocation.

    Raises:
        GpuError: the driver is installed but fails.
    """
    if gpu_selection.excludes_all():
        return []  # asked to work without GPUs, so it does not matter if the driver fails
    with nvml_library() as nvml:
        if nvml is not None:
            chosen = gpu_selection.select_cuda(nvml, os.environ.get(gpu_selection.CUDA))
            return [_gpu(nvml, handle) for _, handle in chosen]
    return [_amd_gpu(found) for found in amd_gpus.visible()]


def answering() -> list[Gpu]:
    """Like `visible()`, but an empty list if the driver fails."""
    try:
        return visible()
    except GpuError:
        return []


def cuda_of_driver() -> tuple[int, int] | None:
    """The newest CUDA version that the driver supports; None without a working driver."""
    try:
        with nvml_library() as nvml:
            if nvml is None:
                return None
            number = nvml.nvmlSystemGetCudaDriverVersion_v2()  # 13010 is 13.1
            return number // 1000, number % 1000 // 10
    except GpuError:
        return None


@contextmanager
def nvml_library() -> Iterator[Any]:
    """Initialized NVML; None on a node without NVIDIA's driver. Its errors become GpuErrors."""
    nvml: Any = importlib.import_module("pynvml")  # the codes of its errors have no type

    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        none = (
            nvml.NVML_ERROR_LIBRARY_NOT_FOUND,
            nvml.NVML_ERROR_DRIVER_NOT_LOADED,
            nvml.NVML_ERROR_NO_PERMISSION,  # a job without GPUs on a node with GPUs
        )
        if error.value not in none:
            raise _failed(error) from error
        yield None
        return
    try:
        yield nvml
    except nvml.NVMLError as error:  # e.g. a device that fell off the bus
        raise _failed(error) from error
    finally:
        nvml.nvmlShutdown()


def _failed(error: Exception) -> GpuError:
    hint = "run nvidia-smi on this node; CUDA_VISIBLE_DEVICES= runs without GPUs"
    return GpuError(f"the GPU driver fails: {error}", hint=hint)


def _gpu(nvml: Any, handle: Any) -> Gpu:
    try:
        errors = nvml.nvmlDeviceGetTotalEccErrors(
            handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        )
    except nvml.NVMLError:
        errors = 0  # ECC is off or not supported
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        running = []  # not supported, or not permitted
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        name=str(nvml.nvmlDeviceGetName(handle)),
        memory_gib=float(memory.total) / 2**30,
        uncorrected_errors=int(errors),
        used_gib=float(memory.used) / 2**30,
        processes=tuple(int(process.pid) for process in running),
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        throttling=_throttling(nvml, handle),
        capability=(int(major), int(minor)),
    )


def _throttling(nvml: Any, handle: Any) -> tuple[str, ...]:
    try:
        bits = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    except nvml.NVMLError:
        return ()  # not supported, as for a part of a GPU (MIG)
    return tuple(name for bit, name in _THROTTLING.items() if bits & bit)


def _amd_gpu(found: AmdGpu) -> Gpu:
    return Gpu(
        name=found.name,
        memory_gib=found.memory_bytes / 2**30,
        uncorrected_errors=found.uncorrected_errors,
        used_gib=found.used_bytes / 2**30,
        processes=found.processes,
    )
