"""Whether a worker claims jobs on a node that was measured: real workers on this CPU."""

from __future__ import annotations

import pytest

from jobspec.monitoring import node_probes
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.worker import NodeProbe, WorkerRecord
from tests.support.node_rates import stand_in
from tests.support.nvml import pretend_gpus
from tests.support.specs import score_spec
from tests.support.waiting import until
from tests.support.workers import worker
from worker.host import identity, node_probe
from worker.host.devices import WorkerDevices
from worker.supervisor.node_check import NodeCheck
from worker.supervisor.options import WorkerOptions
from worker.supervisor.worker import Worker


def faster_nodes(queue: Queue, count: int, rate: float = 1000.0) -> None:
    """Other nodes of this machine's kind with a worker each, all of them this fast."""
    kind = node_probe.kind_of([])
    queue.paths.probes.mkdir()
    for number in range(count):
        name, host = f"n{number}-{number:016x}", f"n{number}"
        record = WorkerRecord(worker=name, host=host, updated_at=records.utc_now())
        queue.heartbeat(name, record)
        probe = NodeProbe(host=host, kind=kind, at=records.utc_now(), matmul_tflops=rate)
        node_probes.path_of(queue.paths, kind, host, ()).write_bytes(records.encode(probe))


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_a_slow_node_is_quarantined_with_its_figures_before_its_first_claim(queue: Queue) -> None:
    faster_nodes(queue, 3)
    queue.enqueue(score_spec())
    with worker(queue, probe=True):
        until(queue.quarantined)
        reason = queue.quarantined()[identity.short_host()].reason
        assert reason.startswith("matrix product 0.")
        assert "median of 3 other nodes of this kind 1,000 TFLOP/s" in reason
        until(lambda: any(seen.record.note for seen in queue.workers() if seen.record.pid))
    assert [job.attempt for job in queue.jobs("pending")] == [1]


def test_throttling_errors_and_a_hang_keep_a_worker_from_claiming(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML and the GPU's rates are stand-ins: this machine has no GPU."""
    faster_nodes(queue, 3, rate=1.0)
    stand_in(monkeypatch, {"figures": {"matmul_tflops": 650.0}})
    pretend_gpus(monkeypatch, throttling=0x08, uncorrected=2)
    on_gpu = Worker(queue, WorkerOptions(), WorkerDevices(1, "cuda"))
    queue.heartbeat(on_gpu.id, WorkerRecord(worker=on_gpu.id, host=on_gpu.host))
    check = NodeCheck(on_gpu)
    assert check.is_due and check.look(3600.0) == [] and not check.is_due
    assert queue.quarantined()[on_gpu.host].reason == (
        "throttled, GPU 0: hardware slowdown; 2 uncorrectable errors of GPU memory"
    )
    queue.clear(on_gpu.host)
    stand_in(monkeypatch, {"failed": "matrix product", "why": "CUDA error"})
    (finding,) = NodeCheck(on_gpu).look(3600.0)
    assert finding.message == "matrix product on the GPUs failed: CUDA error" and finding.of_node
    assert queue.quarantined() == {}


def test_a_disk_that_another_workers_job_uses_is_not_called_slow(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster_nodes(queue, 3)
    slow = Worker(queue, WorkerOptions(), WorkerDevices(1))
    neighbour = f"neighbour-{5:016x}"
    job = queue.enqueue(score_spec()).id
    for name, runs in ((slow.id, None), (neighbour, job)):
        queue.heartbeat(name, WorkerRecord(worker=name, host=slow.host), job=runs)
    NodeCheck(slow).look(3600.0)
    assert queue.quarantined() == {}
    queue.heartbeat(neighbour, job=None)
    NodeCheck(slow).look(3600.0)
    assert list(queue.quarantined()) == [slow.host]


def test_a_single_node_is_used_and_its_figures_are_kept(queue: Queue) -> None:
    queue.enqueue(score_spec())
    with worker(queue, "--max-jobs", "1", probe=True):
        until(lambda: not queue.jobs("pending"))
    (probe,), _ = node_probes.read(queue.paths)
    assert probe.host == identity.short_host() and probe.matmul_tflops
    assert queue.quarantined() == {}


def test_without_a_probe_a_slow_node_is_used(queue: Queue) -> None:
    faster_nodes(queue, 3)
    queue.enqueue(score_spec())
    with worker(queue, "--max-jobs", "1", probe=False):
        until(lambda: not queue.jobs("pending"))
    assert queue.quarantined() == {}
    assert len(node_probes.read(queue.paths)[0]) == 3


def test_where_quarantine_would_leave_too_few_hosts_a_slow_node_is_used(queue: Queue) -> None:
    faster_nodes(queue, 3)
    for number in range(3):
        queue.retire(f"n{number}-{number:016x}")
    queue.enqueue(score_spec())
    with worker(queue, "--max-jobs", "1", probe=True):
        until(lambda: not queue.jobs("pending"))
    assert queue.quarantined() == {}
    assert len(node_probes.read(queue.paths)[0]) == 4
