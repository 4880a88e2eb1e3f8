"""The probe of a worker on several nodes: real agents under a launcher, all on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobspec.monitoring import node_probes
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.worker import NodeProbe, WorkerRecord
from tests.support.as_node import FAST, launcher_of_nodes
from tests.support.commands import environment
from tests.support.node_rates import stand_in
from tests.support.nvml import pretend_gpus
from tests.support.specs import score_spec
from tests.support.waiting import until
from tests.support.workers import worker
from worker.host import node_probe
from worker.host.devices import WorkerDevices
from worker.process import node_agent
from worker.supervisor.node_check import NodeCheck
from worker.supervisor.options import WorkerOptions
from worker.supervisor.worker import Worker

ON_GPU = {"rows": FAST["rows"], "gpus": {}}
SOON_S = 12.0  # a limit for tests that wait for it
HANGS = {"rows": [{"begins": "matrix product"}, "hang"]}


class World:
    """A queue with three nodes that were probed, and workers on several nodes of the same kind."""

    def __init__(self, queue: Queue, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.queue = queue
        self.dir = directory
        self.patch = patch
        self.workers: list[Worker] = []

    def peers(self, kind: str, rate: float = 650.0) -> None:
        self.queue.paths.probes.mkdir()
        for number in range(3):
            name, host = f"n{number}-{number:016x}", f"n{number}"
            record = WorkerRecord(worker=name, host=host, updated_at=records.utc_now())
            self.queue.heartbeat(name, record)
            probe = NodeProbe(host=host, kind=kind, at=records.utc_now(), matmul_tflops=rate)
            path = node_probes.path_of(self.queue.paths, kind, host, ())
            path.write_bytes(records.encode(probe))

    def worker(
        self, count: int = 2, *, before: str = "", kind: str = "cpu", **nodes: dict[str, Any]
    ) -> Worker:
        """A worker on this machine as node 0 and on `count - 1` others."""
        launcher = launcher_of_nodes(self.patch, self.dir, before, **nodes)
        made = Worker(
            self.queue, WorkerOptions(launcher=launcher), WorkerDevices(1, kind, nodes=count)
        )
        self.queue.heartbeat(made.id, WorkerRecord(worker=made.id, host=made.host))
        self.workers.append(made)
        return made

    def probes(self) -> dict[str, NodeProbe]:
        return {probe.host: probe for probe in node_probes.read(self.queue.paths)[0]}

    @property
    def measured(self) -> int:
        return len((self.queue.paths.root / "measured.txt").read_text().splitlines())


@pytest.fixture
def world(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(node_probe, "HUNG_S", 0.5)
    stand_in(monkeypatch, *FAST["rows"])
    made = World(queue, tmp_path, monkeypatch)
    yield made
    for each in made.workers:
        shutil.rmtree(each.tmp, ignore_errors=True)


def agents(*words: bytes) -> list[int]:
    """PIDs that run one of these; by default the agents and what they started."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
            here = f"PWD={Path.cwd()}".encode() in (entry / "environ").read_bytes()
        except OSError:
            continue
        if here and any(word in line for word in words or (b"probe_agent", b"node_rates")):
            found.append(int(entry.name))
    return found


def test_all_nodes_are_probed_once_and_then_reused(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    one = world.worker(3)
    assert NodeCheck(one).look(3600.0) == []
    assert set(world.probes()) == {one.host, "node1", "node2"}
    (seen,) = world.queue.workers()
    assert set(seen.record.nodes) == {"node1", "node2"} and world.queue.quarantined() == {}
    assert world.measured == 3
    assert "node1: node probe, " in (said := capfd.readouterr().err) and "not probed" not in said
    assert NodeCheck(one).look(3600.0) == [] and world.measured == 3
    assert "node2: node probed 0 min ago: matrix product 650" in capfd.readouterr().err
    assert sorted(path.name for path in one.tmp.iterdir()) == ["launcher.log"]
    until(lambda: not agents(), "an agent was left alive")


def test_a_slow_node_is_quarantined_by_its_name_and_the_worker_claims_nothing(
    world: World,
) -> None:
    rate = 1e-6  # this machine, which is measured really, is faster
    world.peers(node_probe.kind_of([]), rate)
    slow = {"rows": [{"figures": {"matmul_tflops": rate / 2}}]}
    launcher = launcher_of_nodes(world.patch, world.dir, node1=slow)
    queue = world.queue
    queue.enqueue(score_spec())
    options = ("--nodes", "2", "--devices", "1", "--launcher", launcher)
    with worker(queue, *options, probe=True):
        until(queue.quarantined)
        assert list(queue.quarantined()) == ["node1"]
        reason = queue.quarantined()["node1"].reason
        assert "matrix product 5e-07 TFLOP/s, median of 4 other nodes of this kind 1e-06" in reason
        notes: list[str] = []
        until(
            lambda: notes.extend(w.record.note for w in queue.workers() if w.record.note) or notes
        )
        assert notes[0] == f"node1, a node of this worker, is in quarantine: {reason}"
        assert [job.attempt for job in queue.jobs("pending")] == [1]
        queue.clear("node1")
        until(lambda: not queue.jobs("pending"))


def test_throttling_and_memory_errors_of_another_node_are_its_own(world: World) -> None:
    pretend_gpus(world.patch)
    world.peers("1 × NVIDIA H100 80GB HBM3")
    bad = ON_GPU | {"gpus": {"throttling": 0x08, "uncorrected": 2}}
    one = world.worker(3, kind="cuda", node1=bad, node2=ON_GPU)
    check = NodeCheck(one)
    assert check.look(3600.0) == []
    marks = world.queue.quarantined()
    assert {host: mark.reason for host, mark in marks.items()} == {
        "node1": "throttled, GPU 0: hardware slowdown; 2 uncorrectable errors of GPU memory"
    }
    assert check.why_quarantined().startswith("node1, a node of this worker, is in quarantine: thr")


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (ON_GPU | HANGS, "node1: matrix product on the GPUs hangs"),
        (ON_GPU | {"is": "silent"}, "node1: its probe had not ended after "),
    ],
    ids=["its product hangs", "its driver hangs"],
)
def test_a_node_that_hangs_makes_the_worker_unfit(
    world: World, node: dict[str, Any], expected: str
) -> None:
    pretend_gpus(world.patch)
    world.peers("1 × NVIDIA H100 80GB HBM3")
    world.patch.setattr(node_probe, "DEADLINE_S", SOON_S)
    one = world.worker(3, kind="cuda", node1=node, node2=ON_GPU)
    began = time.monotonic()
    (finding,) = NodeCheck(one).look(3600.0)
    assert time.monotonic() - began < SOON_S + 8
    assert finding.message.startswith(expected) and finding.of_node and finding.host == "node1"
    assert world.queue.quarantined() == {}
    one._fitness._asked_at = one._fitness._rarely_at = float("inf")  # no GPU to ask here
    one._fitness.probed = [finding]
    one._node._next = float("inf")
    assert not one._is_fit()
    assert list(world.queue.quarantined()) == ["node1"]
    until(lambda: not agents(), "an agent was left alive")


def test_a_node_that_does_not_start_is_named_and_the_others_are_probed(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    program = world.dir / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$*" = "show hostnames n[0-2]" ] && echo n0 n2 n1\n')
    program.chmod(0o755)
    world.patch.setattr(node_probe, "DEADLINE_S", SOON_S)
    absent = world.worker(3, node1={"is": "absent"})
    NodeCheck(absent).look(3600.0)
    said = capfd.readouterr().err
    assert "1 of 2 other nodes were not probed: no answer within 12 s" in said
    assert set(world.probes()) == {absent.host, "node2"}
    world.patch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    world.patch.setenv("SLURM_JOB_NODELIST", "n[0-2]")
    world.patch.setenv("SLURMD_NODENAME", "n0")
    absent = world.worker(2, before="n=0; sleep 1", node1={"is": "absent"})
    absent.devices = WorkerDevices(1, nodes=3)
    assert NodeCheck(absent).look(3600.0) == []
    said = capfd.readouterr().err
    assert "the other nodes (n2, n1) were not probed: the launcher exited with 0" in said


@pytest.mark.parametrize(
    ("before", "why"),
    [
        ("echo 'srun: error: no step' >&2; exit 3", "launcher exited with 3: srun: error: no step"),
        (None, "No such file or directory"),
    ],
    ids=["fails", "is missing"],
)
def test_without_a_launcher_the_workers_own_node_is_probed(
    world: World, capfd: pytest.CaptureFixture[str], before: str | None, why: str
) -> None:
    one = world.worker(2, before=before or "")
    if before is None:
        (world.dir / "launcher.sh").unlink()
    assert NodeCheck(one).look(3600.0) == []
    said = capfd.readouterr().err
    assert "the other nodes were not probed: " in said and why in said
    assert set(world.probes()) == {one.host}


def test_a_stop_ends_the_probes_of_all_nodes(world: World) -> None:
    one = world.worker(2, node1=HANGS)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(NodeCheck(one).look(3600.0)))
    thread.start()
    until(world.probes, "the worker's own probe")
    until(lambda: agents(b"node_rates"), "the measurement of node1")
    one.signals.stop = True
    thread.join(10)
    assert found == [[]] and "node1" not in world.probes()
    until(lambda: not agents(b"node_rates"), "the measurement goes on", 5.0)
    until(lambda: not agents(), "an agent was left alive", node_agent.CONNECT_S + 5)


def test_no_probe_and_one_node_start_no_launcher(world: World) -> None:
    started = world.dir / "started"
    one = world.worker(2, before=f"touch {started}")
    options = WorkerOptions(launcher=one.options.launcher, probe=False)
    off = Worker(world.queue, options, one.devices)
    world.workers.append(off)
    assert not NodeCheck(off).is_due and off._is_fit()
    code = (
        "import sys\n"
        "from jobspec.queue.queue import Queue\n"
        "from worker.supervisor.worker import *\n"
        "options = WorkerOptions(launcher=sys.argv[2])\n"
        "one = Worker(Queue(sys.argv[1]), options, WorkerDevices(1))\n"
        "assert one._is_fit() and not one._node.is_due\n"
        "unused = ('worker.supervisor.probe_nodes', 'worker.process.node_launcher')\n"
        "assert not sys.modules.keys() & set(unused)"
    )
    command = [sys.executable, "-c", code, str(world.queue.paths.root), one.options.launcher]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "node probe, " in done.stderr, done.stderr
    assert not started.exists()
    assert set(world.probes()) == {one.host}
    NodeCheck(one).look(3600.0)
    assert started.exists()
