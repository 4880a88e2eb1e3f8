from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pynvml
import pytest

from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.queue_files import Format
from tests.support.nvml import pretend_gpus
from worker.host import disk, preflight, versions
from worker.host.preflight import Fitness


def test_a_healthy_node_is_fit_and_nothing_is_left_behind(tmp_path: Path):
    root = Queue.create(tmp_path).paths.root
    before = sorted(root.rglob("*"))
    fitness = Fitness(root, Path("/tmp"))
    assert fitness.findings() == []
    assert fitness.unfit_s == 0
    assert sorted(root.rglob("*")) == before


def test_a_root_of_another_layout_is_left_alone_by_a_running_worker(tmp_path: Path):
    paths = Queue.create(tmp_path).paths
    assert preflight.wrong_root(paths.root) == []
    layout = records.read(paths.format, Format)
    assert layout is not None
    paths.format.write_bytes(records.encode(msgspec.structs.replace(layout, layout=99)))
    fitness = Fitness(paths.root, Path("/tmp"))
    (finding,) = [each for each in fitness.findings() if each.check == "layout"]
    assert "has layout" in finding.message
    assert not finding.of_node  # another host would find the same


def test_packages_of_other_versions_are_named():
    assert versions.unmet_requirements() == []  # these tests run in what the project asks for
    others = ['torch>=99; extra == "vllm"', 'click<1; extra == "worker"']
    wrong = versions.unmet_requirements(["msgspec<0.1", "no-such-package>=1", *others])
    assert [words.split()[0] for words in wrong] == ["msgspec", "no-such-package", "click"]
    assert "not <0.1" in wrong[0]
    assert "is not installed" in wrong[1]


def test_a_driver_older_than_torchs_cuda_is_named():
    assert versions.cuda_disagreement((13, 0), (13, 2)) is None
    assert versions.cuda_disagreement((14, 0), (13, 2)) is None
    assert "supports CUDA 12.8, but torch was built for 13.0" in str(
        versions.cuda_disagreement((12, 8), (13, 0))
    )
    assert "CPU build" in str(versions.cuda_disagreement((12, 8), None))


def test_the_cuda_version_of_torch_is_read_without_importing_it():
    code = """
import sys
from worker.host import versions
print(versions.cuda_of_torch())
assert "torch" not in sys.modules
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    import torch

    built = torch.version.cuda
    expected = None if built is None else tuple(map(int, built.split(".")[:2]))
    assert said.stdout.strip() == str(expected)


def test_gpus_that_slurm_promised_and_that_do_not_answer_are_missed():
    (finding,) = preflight.missing_gpus({"SLURM_GPUS_ON_NODE": "9999"})
    assert "9999 GPUs" in finding.message
    assert finding.of_node
    assert preflight.missing_gpus({}) == []


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH]
)
def test_a_failing_driver_does_not_count_as_a_node_without_gpus(
    code: int, monkeypatch: pytest.MonkeyPatch
):
    def fail() -> None:
        raise pynvml.NVMLError(code)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    (finding,) = preflight.missing_gpus({})
    assert finding.check == "gpu"
    assert "driver fails" in finding.message
    assert finding.of_node
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # asked to work without
    assert preflight.missing_gpus({}) == []


def test_gpu_memory_of_another_process_keeps_the_worker_from_claiming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pretend_gpus(monkeypatch, 2)
    assert preflight.held_gpus() == []
    pretend_gpus(monkeypatch, 2, used_gib=12.3, processes=(4242,))
    first, second = preflight.held_gpus()
    assert first.message == ("process 4242 uses 12.3 of 80.0 GiB of GPU 0 (NVIDIA H100 80GB HBM3)")
    assert "GPU 1" in second.message and "nvidia-smi" in first.hint and first.of_node
    assert len(preflight.held_gpus(1)) == 1  # the other GPU is not this worker's
    pretend_gpus(monkeypatch, used_gib=12.3)
    (hidden,) = preflight.held_gpus()
    assert hidden.message.startswith("another process uses")
    fitness = Fitness(Queue.create(tmp_path).paths.root, Path("/tmp"), 1)
    assert fitness.findings(in_use=True) == []  # by this worker's own process
    assert "gpu memory" in {finding.check for finding in fitness.findings()}


def test_an_old_driver_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch):
    pretend_gpus(monkeypatch, driver=12080)
    monkeypatch.setattr(versions, "cuda_of_torch", lambda: (13, 0))
    (finding,) = preflight.wrong_driver()
    assert finding.message == "the driver supports CUDA 12.8, but torch was built for 13.0"
    assert "pip install --force-reinstall torch" in finding.hint and "CUDA 12.8" in finding.hint
    monkeypatch.setattr(versions, "cuda_of_torch", lambda: (12, 6))
    assert preflight.wrong_driver() == []


def test_a_clock_far_from_the_roots_is_seen(tmp_path: Path):
    assert preflight.skewed_clock(tmp_path) == []
    (finding,) = preflight.skewed_clock(tmp_path, clock=lambda: time.time() - 1000)
    assert "1000 s behind" in finding.message
    (finding,) = preflight.skewed_clock(tmp_path, clock=lambda: time.time() + 1000)
    assert "ahead of" in finding.message
    assert list(tmp_path.iterdir()) == []


def test_a_sites_own_check_speaks_for_itself(tmp_path: Path):
    program = tmp_path / "check"
    program.write_text("#!/bin/sh\necho fabric is down\nexit 1\n")
    program.chmod(0o755)
    (finding,) = preflight.site_check({"JOBSPEC_PREFLIGHT": str(program)})
    assert "fabric is down" in finding.message
    program.write_text("#!/bin/sh\nexit 0\n")
    assert preflight.site_check({"JOBSPEC_PREFLIGHT": str(program)}) == []
    (finding,) = preflight.site_check({"JOBSPEC_PREFLIGHT": str(tmp_path / "nothing")})
    assert "nothing" in finding.message


def test_a_tmpdir_too_long_for_sockets_is_named(tmp_path: Path):
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    assert any(found.check == "tmpdir" for found in preflight.check(tmp_path, deep))


def test_whether_a_root_takes_a_write_is_tried(tmp_path: Path):
    assert disk.can_write(tmp_path)
    assert not disk.can_write(Path("/proc"))
    assert list(tmp_path.iterdir()) == []
