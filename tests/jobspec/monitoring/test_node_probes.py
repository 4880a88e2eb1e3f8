"""Which node is slower than others of its kind, and what `jobspec workers --probes` shows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from jobspec.monitoring import node_probes
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.worker import NodeProbe
from tests.support.commands import jobspec, jobspec_json

KIND = "8 × NVIDIA H200"


def probe(host: str, matmul: float | None = 660.0, **figures: object) -> NodeProbe:
    given = {"uuids": ("GPU-1",), "kind": KIND, "at": records.utc_now(), **figures}
    return msgspec.convert({"host": host, "matmul_tflops": matmul, **given}, NodeProbe)


def publish(queue: Queue, *probes: NodeProbe) -> None:
    queue.paths.probes.mkdir(exist_ok=True)
    for each in probes:
        path = node_probes.path_of(queue.paths, each.kind, each.host, each.uuids)
        path.write_bytes(records.encode(each))


PEERS = [probe(f"gpu{number}", 600.0 + 30 * number, disk_mb_s=2000.0) for number in range(5)]


def test_a_node_more_than_a_third_slower_than_the_median_is_named_with_figures() -> None:
    assert node_probes.slower(probe("gpu9", 441), PEERS) == []  # 660 is the median
    assert node_probes.slower(probe("gpu9", 310, disk_mb_s=1400.0), PEERS) == [
        "matrix product 310 TFLOP/s, median of 5 other nodes of this kind 660 TFLOP/s"
    ]
    (disk,) = node_probes.slower(probe("gpu9", disk_mb_s=1300.0), PEERS)
    assert disk.startswith("node-local disk 1,300 MB/s, median of 5")
    reduced = [probe(f"gpu{number}", all_reduce_gb_s=400.0) for number in range(3)]
    (between,) = node_probes.slower(probe("gpu9", all_reduce_gb_s=200.0), reduced)
    assert "all-reduce between GPUs 200 GB/s" in between


def test_the_product_is_shown_as_a_part_of_a_known_cards_peak() -> None:
    assert node_probes.summary(probe("gpu1", 660)).startswith(
        "matrix product 660 TFLOP/s (67% of peak)"
    )
    unknown = probe("gpu1", 660, kind="8 × Some GPU")
    assert node_probes.summary(unknown).startswith("matrix product 660 TFLOP/s")
    assert "peak" not in node_probes.summary(unknown)
    cpu = probe("node1", 1.5, kind="64 cores of H100 CPU", uuids=())
    assert "peak" not in node_probes.summary(cpu)


def test_nothing_is_compared_without_three_other_nodes_of_the_kind() -> None:
    slow = probe("gpu9", 310)
    assert node_probes.slower(slow, PEERS[:3]) != []
    assert node_probes.slower(slow, PEERS[:2]) == []
    own = [msgspec.structs.replace(each, host="gpu9") for each in PEERS]
    assert node_probes.slower(slow, [*own, *PEERS[:2]]) == []
    other = [msgspec.structs.replace(each, kind="8 × NVIDIA B200") for each in PEERS]
    assert node_probes.slower(slow, other) == []
    twice = [*PEERS[:2], msgspec.structs.replace(PEERS[1], uuids=("GPU-2",))]
    assert node_probes.slower(slow, twice) == []  # two workers of one node
    absurd = [probe(f"x{number}", value) for number, value in enumerate((0.0, -1.0, None))]
    assert node_probes.slower(probe("gpu9", 100), [*PEERS[:2], *absurd]) == []
    assert node_probes.slower(probe("gpu9", None), PEERS) == []


def test_what_a_running_job_on_the_same_node_slows_down_is_not_compared() -> None:
    slow = probe("gpu9", 310, disk_mb_s=10.0)
    assert len(node_probes.slower(slow, PEERS)) == 2
    (product,) = node_probes.slower(slow, PEERS, is_shared=True)
    assert product.startswith("matrix product")
    on_cpu = [msgspec.structs.replace(each, uuids=()) for each in (slow, *PEERS)]
    assert node_probes.slower(on_cpu[0], on_cpu[1:], is_shared=True) == []


def test_the_roots_latency_counts_only_if_far_above_that_of_others() -> None:
    peers = [probe(f"gpu{number}", root_ms=20.0) for number in range(3)]
    assert node_probes.slower(probe("gpu9", root_ms=450.0), peers) == []
    (latency,) = node_probes.slower(probe("gpu9", root_ms=600.0), peers)
    assert latency.startswith("a small file in the root 600 ms")
    busy = [probe(f"gpu{number}", root_ms=90.0) for number in range(3)]
    assert node_probes.slower(probe("gpu9", root_ms=600.0), busy) == []


def test_the_command_shows_figures_complaints_and_files_that_are_none(queue: Queue) -> None:
    root = str(queue.paths.root)
    assert "no node was probed yet" in jobspec("workers", "--probes", "--root", root).stderr
    slow = probe("gpu9", 310, throttling=("GPU 3: hardware slowdown",), root_ms=4.25)
    publish(queue, *PEERS, slow)
    torn = queue.paths.probes / "12345678.gpu7.12345678.json"
    torn.write_text('{"host": "gp')
    shown = jobspec("workers", "--probes", "--root", root)
    assert "310 TFLOP/s" in shown.stdout and "4.25 ms" in shown.stdout
    assert "GPU 3: hardware slowdown" in shown.stdout
    assert "median of 5 other nodes" in shown.stdout.replace("\n", " ")
    assert torn.name in shown.stderr.replace("\n", "")
    printed = jobspec_json("workers", "--probes", "--root", root)
    assert [each["host"] for each in printed["probes"]] == [f"gpu{n}" for n in (*range(5), 9)]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'{"host": 3, "kind": "x"}'])
def test_a_file_that_is_no_probe_is_named_and_ignored(queue: Queue, content: bytes) -> None:
    publish(queue, *PEERS)
    path = node_probes.path_of(queue.paths, KIND, "gpu0", ("GPU-1",))
    path.write_bytes(content)
    found, unread = node_probes.read(queue.paths, KIND)
    assert len(found) == 4 and unread == [path]
    path.unlink()
    path.mkdir()
    assert node_probes.read(queue.paths)[1] == [path]


def test_the_probes_of_another_kind_are_not_read(queue: Queue, tmp_path: Path) -> None:
    publish(queue, *PEERS, probe("cpu1", kind="2 cores of EPYC"))
    assert len(node_probes.read(queue.paths, KIND)[0]) == 5
    assert [each.host for each in node_probes.read(queue.paths, "2 cores of EPYC")[0]] == ["cpu1"]
