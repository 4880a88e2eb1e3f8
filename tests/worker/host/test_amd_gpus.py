"""Which GPUs ROCm's variables name, and what the kernel's files say about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.amd_gpus import UUIDS, make_amd_gpus
from worker.host import amd_gpus, gpu_selection, gpus, versions
from worker.host.devices import visible_devices
from worker.inference import gpu_groups


@pytest.mark.parametrize(
    ("rocr", "hip", "cuda", "expected"),
    [
        (None, None, None, [0, 1, 2, 3]),
        ("2,0", None, None, [2, 0]),
        (" 1 , 3 ", None, None, [1, 3]),
        ("0x2,01", None, None, [2, 1]),
        (UUIDS[3], None, None, [3]),
        (UUIDS[3].lower().replace("gpu", "GPU") + ",0", None, None, [3, 0]),
        ("gpu-c", None, None, [2]),
        ("GPU-", None, None, []),  # too short
        ("GPU-A", None, None, []),  # the beginning of several
        (UUIDS[3] + "0,0", None, None, []),
        ("0,-1,1", None, None, [0]),
        ("0,9,1", None, None, [0]),
        ("0,0,1", None, None, [0]),
        (f"1,{UUIDS[1]},2", None, None, [1]),
        ("NoDevFiles", None, None, []),
        ("-1", None, None, []),
        ("", None, None, []),
        ("0,,1", None, None, [0]),
        (None, "1,3", None, [1, 3]),
        (None, "3,1,3,0", None, [3, 1, 0]),
        (None, "0, 1", None, [0]),  # HIP allows no spaces
        (None, "01", None, []),
        (None, "-1", None, []),
        (None, "", None, [0, 1, 2, 3]),
        (None, UUIDS[2], None, [2]),
        (None, f"{UUIDS[2]},GPU-ffff,0", None, [2]),
        (None, None, "2", [2]),
        (None, "1", "2", [1]),
        (None, "", "2", [2]),
        ("3,1", "1", None, [1]),
        ("3,1", "0,1", "1", [3, 1]),
        ("3,1", "2", None, []),
        ("3,1", UUIDS[3], None, [3]),
        ("3,1", UUIDS[0], None, []),
        ("3,1", None, "0", [3]),
    ],
)
def test_the_gpus_that_rocm_shows_are_used(
    rocr: str | None,
    hip: str | None,
    cuda: str | None,
    expected: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_amd_gpus(monkeypatch, tmp_path, 4)
    given = {gpu_selection.ROCR: rocr, gpu_selection.HIP: hip, gpu_selection.CUDA: cuda}
    for name, value in given.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    assert [gpu.name for gpu in gpus.visible()] == [f"AMD Instinct {n}" for n in expected]
    devices = visible_devices()
    assert devices.on_gpu == bool(expected)
    assert not expected or devices.count == len(expected)


def test_the_kernels_facts_about_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_amd_gpus(monkeypatch, tmp_path, 2, used_gib=3.0, processes=(41, 42), errors=7)
    first, second = gpus.visible()
    assert (first.memory_gib, first.used_gib, first.uncorrected_errors) == (192.0, 3.0, 7)
    assert sorted(first.processes) == [41, 42]
    assert second.processes == ()


def test_a_graphics_unit_is_not_used_without_a_torch_for_rocm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_amd_gpus(monkeypatch, tmp_path, 1)
    monkeypatch.setattr(versions, "torch_is_for_rocm", lambda: False)
    assert gpus.visible() == []


@pytest.mark.parametrize(("hip", "found"), [("'6.4.43482'", True), ("None", False)])
def test_for_which_gpus_torch_was_built(
    hip: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").touch()
    text = f"cuda: Optional[str] = None\nhip: Optional[str] = {hip}\n"
    (tmp_path / "torch/version.py").write_text(text)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: _Spec([str(tmp_path / name)]))
    assert versions.torch_is_for_rocm() is found
    assert versions.cuda_of_torch() is None


class _Spec:
    def __init__(self, directories: list[str]) -> None:
        self.submodule_search_locations = directories


def test_engines_get_groups_of_the_shown_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_amd_gpus(monkeypatch, tmp_path, 4)
    monkeypatch.setenv(gpu_selection.ROCR, "3,1")
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(16 * 2**30)
    assert gpu_groups.groups(tmp_path) == [{gpu_selection.HIP: "0"}, {gpu_selection.HIP: "1"}]
    assert gpu_groups.all_links() == {gpu_selection.HIP: "0,1"}


def test_nothing_is_found_without_amds_driver(tmp_path: Path) -> None:
    assert amd_gpus.visible({}, tmp_path) == []
