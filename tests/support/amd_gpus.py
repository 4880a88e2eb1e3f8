"""The kernel's files of a machine with AMD GPUs that this one does not have."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from worker.host import amd_gpus, gpu_selection, versions

UUIDS = (
    "GPU-a1b7c4f1e0000001",
    "GPU-a2b7c4f1e0000002",
    "GPU-c3b7c4f1e0000003",
    "GPU-0004000000000004",
)


def make_amd_gpus(
    monkeypatch: pytest.MonkeyPatch,
    sys: Path,
    count: int,
    *,
    used_gib: float = 0.5,
    processes: tuple[int, ...] = (),
    errors: int = 0,
) -> None:
    """Let the kernel report this many GPUs of 192 GiB beside a processor, and no NVIDIA driver.

    Args:
        processes: the ids of those that use memory of the first GPU.
        errors: uncorrectable ones of the memory of each.
    """
    nodes = sys / "class/kfd/kfd/topology/nodes"
    _write(nodes / "0/properties", "cpu_cores_count 64\nsimd_count 0\nunique_id 0\n")
    for index in range(count):
        node, unique, minor = nodes / str(index + 1), int(UUIDS[index][4:], 16), 128 + index
        device = sys / f"class/drm/renderD{minor}/device"
        _write(
            node / "properties",
            f"simd_count 1216\nunique_id {unique}\ndrm_render_minor {minor}\n",
        )
        _write(node / "gpu_id", f"{5000 + index}\n")
        _write(node / "mem_banks/0/properties", f"heap_type 1\nsize_in_bytes {192 * 2**30}\n")
        _write(device / "product_name", f"AMD Instinct {index}\n")
        _write(device / "mem_info_vram_used", f"{int(used_gib * 2**30)}\n")
        _write(device / "ras/umc_err_count", f"ue: {errors}\nce: 3\n")
    for process in processes:
        _write(sys / f"class/kfd/kfd/proc/{process}/vram_5000", "4096\n")
        _write(sys / f"class/kfd/kfd/proc/{process}/vram_5001", "0\n")

    def no_nvidia() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_nvidia)
    monkeypatch.setattr(amd_gpus, "_SYS", sys)
    monkeypatch.setattr(versions, "torch_is_for_rocm", lambda: True)
    for name in (gpu_selection.CUDA, gpu_selection.HIP, gpu_selection.ROCR):
        monkeypatch.delenv(name, raising=False)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
