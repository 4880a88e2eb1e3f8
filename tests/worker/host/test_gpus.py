"""Which GPUs `CUDA_VISIBLE_DEVICES` names; NVML is a stand-in."""

from __future__ import annotations

import pynvml
import pytest

from tests.support.nvml import MIG_UUID, UUIDS, pretend_gpus
from worker.host import gpu_selection, gpus
from worker.host.devices import visible_devices


@pytest.mark.parametrize(
    ("masked", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("0,1", [0, 1]),
        ("2, 0", [2, 0]),
        (UUIDS[3], [3]),
        (f"{UUIDS[3]},{UUIDS[1]}", [3, 1]),
        ("GPU-2b7c", [2]),
        ("GPU-2b7c,1", [2, 1]),
        ("GPU-", []),  # the beginning of several
        ("GPU-ffff,0", []),
        (MIG_UUID, [-1]),
        (f"{MIG_UUID},MIG-0-0-0", [-1]),
        ("MIG-00000000-0000-0000-0000-000000000000", []),
        ("-1", []),
        ("0,-1,1", [0]),
        ("0,9,1", [0]),
        ("0,,1", [0]),
        ("NoDevFiles", []),
        ("", []),
        ("none", []),
        ("0,0", []),
        (f"0,{UUIDS[0]}", []),
    ],
)
def test_the_gpus_that_cuda_shows_are_used(
    masked: str | None, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(monkeypatch, 4)
    assert [handle for _, handle in gpu_selection.select_cuda(pynvml, masked)] == expected
    if masked is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", masked)
    assert len(gpus.visible()) == len(expected)
    devices = visible_devices()
    assert devices.on_gpu == bool(expected)
    assert not expected or devices.count == len(expected)


def test_variables_of_another_makers_gpus_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm sets them together with CUDA_VISIBLE_DEVICES, whichever GPUs a node has."""
    pretend_gpus(monkeypatch, 4)
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"):
        monkeypatch.setenv(name, "0")
    assert len(gpus.visible()) == 4
