"""The probe of a node: measured here on the CPU, with a stand-in for NVML and for GPUs' rates."""

from __future__ import annotations

import itertools
import stat
import threading
from pathlib import Path

import msgspec
import pytest

from jobspec.monitoring import node_probes
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.worker import NodeProbe
from tests.support.node_rates import stand_in
from tests.support.nvml import UUIDS, pretend_gpus
from worker.host import node_probe
from worker.host.devices import WorkerDevices
from worker.host.node_probe import NodeProber

FIGURES = {"figures": {"matmul_tflops": 650.0, "gpu_free_gib": 78.0}}
BEGINS = {"begins": "matrix product"}


class World:
    """A root, and probers of hosts that all are this machine."""

    def __init__(self, queue: Queue, tmp: Path) -> None:
        self.queue = queue
        self.tmp = tmp
        self.log: list[str] = []
        self.wanted = True

    def prober(self, host: str = "here", devices: WorkerDevices | None = None) -> NodeProber:
        return NodeProber(
            self.queue.paths,
            host,
            self.tmp,
            devices or WorkerDevices(2),
            wait=lambda: self.wanted,
            say=self.log.append,
        )

    def probe(self, host: str = "here", devices: WorkerDevices | None = None) -> NodeProbe:
        probe, _ = self.prober(host, devices).run()
        assert probe is not None
        return probe

    @property
    def measured(self) -> list[tuple[float, float]]:
        """When each stand-in of a measurement began and ended."""
        path = self.queue.paths.root / "measured.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(float(line.split()[0]), float(line.split()[1])) for line in lines]


@pytest.fixture
def world(queue: Queue, tmp_path: Path) -> World:
    tmp = tmp_path / "node"
    tmp.mkdir()
    return World(queue, tmp)


def test_this_node_is_measured_and_nothing_is_left_behind(world: World) -> None:
    root = world.queue.paths.root
    before = set(root.rglob("*"))
    probe = world.probe()
    assert probe.kind.split()[1:3] == ["cores", "of"]
    for figure in (probe.matmul_tflops, probe.disk_mb_s, probe.root_mb_s, probe.root_ms):
        assert figure is not None and figure > 0
    assert probe.clock_ahead_s is not None and abs(probe.clock_ahead_s) < 10
    assert (probe.fault, probe.not_measured, probe.throttling) == ("", (), ())
    assert probe.all_reduce_gb_s is None
    path = node_probes.path_of(world.queue.paths, probe.kind, "here", ())
    assert set(root.rglob("*")) - before == {path.parent, path}
    assert list(world.tmp.iterdir()) == []
    assert "matrix product" in world.log[0] and "TFLOP/s" in world.log[0]


def test_a_probe_of_the_last_hour_is_used_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, FIGURES)
    first = world.probe()
    assert world.probe() == first and len(world.measured) == 1
    assert "node probed 0 min ago" in world.log[-1]
    path = node_probes.path_of(world.queue.paths, first.kind, "here", ())
    for at in ("2026-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z", "yesterday"):
        path.write_bytes(records.encode(msgspec.structs.replace(first, at=at)))
        assert world.probe().at > first.at
    assert len(world.measured) == 4
    path.write_text("{")
    world.probe()
    assert len(world.measured) == 5
    assert any(line == f"ignored {path}: it is no probe of a node" for line in world.log)


def test_workers_with_other_gpus_of_a_host_have_probes_of_their_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, FIGURES)
    pretend_gpus(monkeypatch, 8)
    probes: list[NodeProbe] = []
    for shown in ("0,1", "2,3"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        probes.append(world.probe(devices=WorkerDevices(2, "cuda")))
    assert [probe.uuids for probe in probes] == [UUIDS[:2], UUIDS[2:4]]
    assert {probe.kind for probe in probes} == {"2 × NVIDIA H100 80GB HBM3"}
    one = world.probe(devices=WorkerDevices(1, "cuda"))
    assert one.kind.startswith("1 ×") and one.uuids == UUIDS[2:3]
    assert len(world.measured) == 3
    assert len(list(world.queue.paths.probes.iterdir())) == 3


def test_workers_of_a_host_measure_one_after_the_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, FIGURES)
    hosts = ["a", "b", "c", "a", "b", "c"]  # all of them are this machine
    threads = [threading.Thread(target=world.probe, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans = sorted(world.measured)
    assert len(spans) == 3  # of two with the same devices the second uses the first's figures
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_a_product_that_hangs_on_a_gpu_makes_the_node_unfit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_probe, "DEADLINE_S", 2.0)
    monkeypatch.setattr(node_probe, "HUNG_S", 0.5)
    stand_in(monkeypatch, BEGINS, "hang")
    assert world.probe().fault == ""  # on a CPU: a busy machine
    assert "matrix product (it had not ended after" in world.log[0]
    pretend_gpus(monkeypatch)
    probe = world.probe(devices=WorkerDevices(1, "cuda"))
    assert probe.fault == "matrix product on the GPUs hangs"
    assert probe.matmul_tflops is None and probe.seconds < 10
    stand_in(monkeypatch, FIGURES)
    assert world.probe(devices=WorkerDevices(1, "cuda")).fault == ""  # as after a reset
    stand_in(monkeypatch, {"begins": "import of torch"}, "hang")
    assert world.probe("other", WorkerDevices(1, "cuda")).fault == ""  # a slow filesystem
    error = {"failed": "matrix product", "why": "CUDA error: uncorrectable ECC error"}
    stand_in(monkeypatch, BEGINS, error)
    probe = world.probe("third", WorkerDevices(1, "cuda"))
    assert probe.fault == ("matrix product on the GPUs failed: CUDA error: uncorrectable ECC error")


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0x08, ("GPU 0: hardware slowdown",)),
        (0xC0, ("GPU 0: hardware power brake", "GPU 0: hardware thermal slowdown")),
        (0x05, ()),  # idle, and the limit of power that its owner set
    ],
)
def test_what_nvml_says_of_throttling_and_errors_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch, bits: int, expected: tuple[str, ...]
) -> None:
    stand_in(monkeypatch, FIGURES)
    pretend_gpus(monkeypatch, throttling=bits, uncorrected=3)
    probe = world.probe(devices=WorkerDevices(1, "cuda"))
    assert probe.throttling == expected
    assert (probe.uncorrected_errors, probe.matmul_tflops, probe.gpu_free_gib) == (3, 650.0, 78.0)


def test_a_node_that_seems_slow_is_measured_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, FIGURES)
    for host in "abc":
        world.probe(host)
    assert len(world.measured) == 3
    stand_in(monkeypatch, {"figures": {"matmul_tflops": 300.0}})
    assert world.probe().matmul_tflops == 300.0
    assert len(world.measured) == 5


def test_a_worker_that_has_to_stop_ends_its_probe(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, BEGINS, "hang")
    world.wanted = False
    probe, others = world.prober().run()
    assert probe is None and others == []
    assert not world.queue.paths.probes.exists()


def test_in_a_groups_root_its_members_can_replace_a_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBSPEC_ALLOW_GROUP", "1")
    stand_in(monkeypatch, FIGURES)
    world = World(Queue.create(tmp_path / "root"), tmp_path)
    world.probe()
    paths = world.queue.paths
    assert stat.S_IMODE(paths.probes.stat().st_mode) == stat.S_IMODE(paths.queue.stat().st_mode)
    assert paths.probes.stat().st_mode & stat.S_IWGRP
