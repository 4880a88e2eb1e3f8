"""Which GPUs each engine gets: one, or as many as the weights need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jobspec.errors import ModelError
from jobspec.models import config
from worker.host import amd_gpus, gpu_selection

ENGINES_VARIABLE = "JOBSPEC_EVAL_ENGINES"
_WEIGHTS_SHARE = 0.6  # of the memory of a group; the rest is for the key-value cache


class VisibleGpu(NamedTuple):
    """A GPU as `variable` names it, its memory, and its NVML handle if it is NVIDIA's."""

    name: str
    memory_bytes: int
    handle: Any
    variable: str = gpu_selection.CUDA


def groups(weights: Path, nvml: Any = None) -> list[dict[str, str]]:
    """The environment of each engine. Without a GPU: one engine, or `$JOBSPEC_EVAL_ENGINES`.

    Raises:
        ModelError: all GPUs together are too small for the weights.
    """
    shown = visible(nvml)
    if not shown:
        count = int(os.environ.get(ENGINES_VARIABLE, "1"))
        return [{} for _ in range(count)]
    size = group_size(weights_bytes(weights), [gpu.memory_bytes for gpu in shown])
    cut = [shown[start : start + size] for start in range(0, len(shown) - size + 1, size)]
    return [_switches(group, nvml) for group in cut]


def group_size(needed_bytes: int, memory_bytes: Sequence[int]) -> int:
    """The smallest power of two of GPUs whose memory holds the weights with room to spare."""
    size = 1
    while size <= len(memory_bytes):
        if needed_bytes <= _WEIGHTS_SHARE * size * min(memory_bytes):
            return size
        size *= 2
    gib = [round(value / 2**30) for value in (needed_bytes, sum(memory_bytes))]
    raise ModelError(
        f"the weights take {gib[0]} GiB, and the {len(memory_bytes)} GPUs here have {gib[1]}",
        hint="run it where there are more, or larger, GPUs",
    )


def tensor_parallel_size(directory: Path, gpus: int) -> int:
    """How many of `gpus` one vLLM engine can use: a power of two that divides the model's heads.

    Key-value heads may also be copied, and then the size must be a multiple of their number.
    """
    model = config.read(directory)
    heads = model.heads or 1
    kv_heads = model.kv_heads or heads
    size = 1
    while 2 * size <= gpus and heads % (2 * size) == 0:
        if kv_heads % (2 * size) and (2 * size) % kv_heads:
            break
        size *= 2
    return size


def all_links(nvml: Any = None) -> dict[str, str]:
    """The environment of one engine on every GPU this process sees."""
    shown = visible(nvml)
    return _switches(shown, nvml) if shown else {}


def weights_bytes(directory: Path) -> int:
    """The size of a model directory's weight files."""
    files = [*directory.glob("*.safetensors"), *directory.glob("*.bin")]
    return sum(file.stat().st_size for file in files)


def visible(nvml: Any = None) -> list[VisibleGpu]:
    """The GPUs that this process may use. Drivers list them without creating a CUDA context."""
    if gpu_selection.excludes_all():
        return []
    if nvml is None:
        nvml = _nvml()
    if nvml is None:
        hip = gpu_selection.HIP
        return [VisibleGpu(g.hip_name, g.memory_bytes, None, hip) for g in amd_gpus.visible()]
    found = gpu_selection.select_cuda(nvml, os.environ.get(gpu_selection.CUDA))
    return [VisibleGpu(name, nvml.nvmlDeviceGetMemoryInfo(h).total, h) for name, h in found]


def _nvml() -> Any:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # without driver library, driver or device there is no GPU
        return None
    return pynvml


def _switches(group: Sequence[VisibleGpu], nvml: Any) -> dict[str, str]:
    variable = group[0].variable
    found = {variable: ",".join(gpu.name for gpu in group)}
    nvidia = variable == gpu_selection.CUDA
    if nvidia and len(group) > 1 and not _linked(group, nvml if nvml is not None else _nvml()):
        # Peer access over the link between two CPU sockets was seen to hang.
        found["NCCL_P2P_DISABLE"] = "1"
    return found


def _linked(group: Sequence[VisibleGpu], nvml: Any) -> bool:
    """Whether every pair has NVLink, or at least a PCIe path within one CPU socket."""
    pairs = [(a.handle, b.handle) for i, a in enumerate(group) for b in group[i + 1 :]]
    return all(_nvlink(nvml, *pair) or _one_socket(nvml, *pair) for pair in pairs)


def _nvlink(nvml: Any, a: Any, b: Any) -> bool:
    status = nvml.nvmlDeviceGetP2PStatus(a, b, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
    return status == nvml.NVML_P2P_STATUS_OK


def _one_socket(nvml: Any, a: Any, b: Any) -> bool:
    level = nvml.nvmlDeviceGetTopologyCommonAncestor(a, b)
    return level < nvml.NVML_TOPOLOGY_SYSTEM
