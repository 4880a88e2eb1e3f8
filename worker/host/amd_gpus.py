"""The AMD GPUs of this machine, read from the kernel's files and without ROCm's libraries."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.host import gpu_selection, versions

_SYS = Path("/sys")


@dataclass(frozen=True)
class AmdGpu:
    """One GPU that this process may use.

    Attributes:
        hip_name: by which `HIP_VISIBLE_DEVICES` names it within this process.
        processes: ids of those that use its memory.
    """

    hip_name: str
    name: str
    memory_bytes: int
    used_bytes: int
    uncorrected_errors: int
    processes: tuple[int, ...]


def visible(env: Mapping[str, str] = os.environ, sys: Path | None = None) -> list[AmdGpu]:
    """The GPUs that ROCm's variables allow, in HIP's order; none without AMD's driver.

    None either if torch was not built for ROCm: many processors have an AMD graphics unit, and it
    can't be used then.

    Source: the kernel's amdgpu documentation and `kfd_topology.c`. A node without `simd_count` is
    a processor. Devices outside this process's control group can't be read.
    """
    sys = sys or _SYS
    nodes = list(_nodes(sys))
    if not nodes or not versions.torch_is_for_rocm():
        return []
    uuids = [_uuid(properties) for _, properties in nodes]
    return [
        _facts(hip_name, *nodes[number], sys)
        for hip_name, number in gpu_selection.select_rocm(env, uuids)
    ]


def _nodes(sys: Path) -> Iterator[tuple[Path, dict[str, int]]]:
    topology = sys / "class/kfd/kfd/topology/nodes"
    try:
        nodes = [node for node in topology.iterdir() if node.name.isdecimal()]
    except OSError:
        return
    for node in sorted(nodes, key=lambda node: int(node.name)):
        properties = _properties(node / "properties")
        if properties.get("simd_count"):
            yield node, properties


def _uuid(properties: Mapping[str, int]) -> str:
    unique = properties.get("unique_id", 0)
    return f"GPU-{unique:016x}" if unique else ""


def _facts(hip_name: str, node: Path, properties: Mapping[str, int], sys: Path) -> AmdGpu:
    device = sys / f"class/drm/renderD{properties.get('drm_render_minor', 0)}/device"
    banks = (_properties(bank) for bank in node.glob("mem_banks/*/properties"))
    gpu_id = _text(node / "gpu_id")
    holders = (sys / "class/kfd/kfd/proc").glob(f"*/vram_{gpu_id}")
    return AmdGpu(
        hip_name=hip_name,
        name=_text(device / "product_name") or _text(node / "name") or "AMD GPU",
        memory_bytes=sum(bank.get("size_in_bytes", 0) for bank in banks),
        used_bytes=_number(_text(device / "mem_info_vram_used")),
        uncorrected_errors=_uncorrected(_text(device / "ras/umc_err_count")),
        processes=tuple(int(file.parent.name) for file in holders if _number(_text(file))),
    )


def _properties(file: Path) -> dict[str, int]:
    rows = (line.split() for line in _text(file).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}


def _uncorrected(text: str) -> int:
    """The errors in lines such as `ue: 0` and `ce: 3`."""
    rows = (line.partition(":") for line in text.splitlines())
    return next((_number(value) for key, _, value in rows if key == "ue"), 0)


def _number(text: str) -> int:
    return int(text) if text.strip().isdecimal() else 0


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
