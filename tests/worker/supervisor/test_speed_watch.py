"""A node that became slow while it trains: from written steps. The real one is in integration."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import pytest

from jobspec.queue.claim import Claim
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import AttemptEvent
from jobspec.records.manifest import Manifest, PlannedBatch, UsedDevices
from jobspec.spec.schema import JobSpec, TrainSpec
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths
from tests.support.commands import jobspec, jobspec_json
from tests.support.nvml import pretend_gpus
from tests.support.queues import enqueue_and_claim
from tests.support.specs import tuned_spec
from worker.host.devices import WorkerDevices
from worker.supervisor import speed_watch
from worker.supervisor.options import WorkerOptions
from worker.supervisor.speed_watch import (
    Slowdown,
    Speeds,
    SpeedWatch,
    StepSpeed,
    is_as_fast,
    slow_host,
)
from worker.supervisor.worker import Worker


def steps(count: int, rate: float, first: int = 1, seconds: float = 10.0) -> list[StepSpeed]:
    """Steps whose speeds vary by a tenth."""
    vary = random.Random(first)
    return [
        StepSpeed("train", first + number, rate * vary.uniform(0.9, 1.1), seconds)
        for number in range(count)
    ]


def behind(given: Iterable[StepSpeed], *hosts: str, share: float) -> list[StepSpeed]:
    """The same steps with these hosts as the slowest ones, in turn."""
    return [
        msgspec.structs.replace(step, slowest_host=host, slowest_host_share=share)
        for step, host in zip(given, itertools.cycle(hosts), strict=False)
    ]


def found(speeds: Speeds, given: Iterable[StepSpeed]) -> list[Slowdown]:
    return [each for step in given if (each := speeds.add(step)) is not None]


def test_a_fall_below_two_thirds_is_noticed_once_with_its_step_and_again_later() -> None:
    speeds = Speeds()
    assert found(speeds, steps(60, 1000.0)) == []
    (slow,) = found(speeds, steps(200, 410.0, 61))
    assert 57 <= slow.step <= 65
    assert 0.37 < slow.now / slow.before < 0.45 and 950 < slow.before < 1050
    assert speeds.slow
    assert found(speeds, steps(30, 1000.0, 261)) == [] and not speeds.slow
    assert len(found(speeds, steps(30, 410.0, 291))) == 1


def test_a_loss_of_a_third_or_less_is_none() -> None:
    assert found(Speeds(), [*steps(60, 1000.0), *steps(200, 760.0, 61)]) == []


def test_pauses_first_steps_and_long_rows_raise_no_alarm() -> None:
    speeds, given = Speeds(), steps(300, 1000.0)
    for number in range(5):  # kernels are compiled
        given[number] = StepSpeed("train", number, 3.0, 600.0)
    for number in range(60, 300, 40):  # a stopped process, a filesystem that hung
        given[number] = StepSpeed("train", number, 10.0, 3000.0)
    for number in range(100, 150):  # ten times the tokens in ten times the time
        given[number] = msgspec.structs.replace(given[number], step_s=100.0)
    assert found(speeds, given) == []


def test_a_short_time_or_a_short_history_is_not_judged() -> None:
    assert found(Speeds(), steps(60, 1000.0) + steps(50, 100.0, 61, seconds=0.1)) == []
    assert found(Speeds(), steps(13, 1000.0) + steps(100, 100.0, 14)) == []


def test_an_attempt_that_is_slow_from_its_beginning_is_compared_with_earlier_ones() -> None:
    assert found(Speeds(), steps(50, 400.0)) == []
    (slow,) = found(Speeds([1000.0] * 30), steps(50, 400.0, 200))
    assert slow.step == 205 and slow.before == 1000.0


@pytest.fixture
def worker(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(speed_watch, "EVERY_S", -1.0)  # at every call
    monkeypatch.setattr(speed_watch, "_PEERS_EVERY_S", -1.0)
    worker = Worker(queue, WorkerOptions(), WorkerDevices(1))
    yield worker
    shutil.rmtree(worker.tmp)


def begin(worker: Worker, spec: JobSpec | None = None, host: str = "here") -> Claim:
    claim = enqueue_and_claim(worker.queue, spec or tuned_spec(), worker.id)
    publish_manifest(claim.dir, host)
    return claim


def publish_manifest(attempt: AttemptPaths, host: str, gpu: str = "NVIDIA H200") -> None:
    device = UsedDevices(kind="cuda", name=gpu, count=1)
    manifest = Manifest(host=host, device=device, plan=PlannedBatch(world_size=8))
    fs.publish(attempt.manifest, records.encode(manifest))


def write(attempt: AttemptPaths, given: Iterable[StepSpeed]) -> None:
    rows = b"".join(msgspec.json.encode(step) + b"\n" for step in given)
    with attempt.metrics.open("ab") as file:
        file.write(rows)


def watch(worker: Worker, claim: Claim, nodes: int = 1) -> tuple[SpeedWatch, list[AttemptEvent]]:
    events: list[AttemptEvent] = []

    def event(name: str, **facts: Any) -> None:
        events.append(AttemptEvent(event=name, **facts))

    return SpeedWatch(worker, claim, nodes, event), events


def test_one_event_names_the_host_and_status_and_show_tell_it(
    worker: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    claim = begin(worker)
    looking, events = watch(worker, claim)
    looking.look()  # there are no rows yet
    write(claim.dir, steps(60, 1000.0))
    with claim.dir.metrics.open("ab") as file:
        file.write(b'{"phase": "train", "loss": "no step"}\nnonsense\n{"phase": "tra')
    looking.look()
    assert events == []
    with claim.dir.metrics.open("ab") as file:
        file.write(b'in"}\n')
    for first in range(61, 121, 10):
        write(claim.dir, steps(10, 410.0, first))
        looking.look()
    (event,) = events
    assert (event.event, type(event.step), event.host) == ("slow", int, worker.host)
    said = str(event.message)
    assert said.startswith(f"{worker.host} became slow: ")
    assert f"of this job's earlier rate since step {event.step} (median " in said
    assert "tokens/s, before 1,0" in said or "tokens/s, before 9" in said
    assert f"{claim.job}: {said}" in capfd.readouterr().err
    root = str(worker.root)
    for shown in (jobspec("status", "--root", root), jobspec("show", claim.job, "--root", root)):
        assert f"{worker.host} became slow" in " ".join(shown.stdout.split())
    (row,) = jobspec_json("status", "--root", root)["jobs"]
    assert row["note"] == said
    for first in range(121, 161, 10):
        write(claim.dir, steps(10, 1000.0, first))
        looking.look()
    assert [each.event for each in events] == ["slow", "fast"]
    (row,) = jobspec_json("status", "--root", root)["jobs"]
    assert row["note"] is None


def test_a_row_that_is_half_written_is_read_once_it_is_whole(worker: Worker) -> None:
    claim = begin(worker)
    looking, _ = watch(worker, claim)
    one, two = steps(2, 1000.0)
    line = msgspec.json.encode(two)
    write(claim.dir, [one])
    with claim.dir.metrics.open("ab") as file:
        file.write(line[:20])
    assert list(looking._new_steps()) == [one]
    with claim.dir.metrics.open("ab") as file:
        file.write(line[20:] + b"\n")
    assert list(looking._new_steps()) == [two]
    assert list(looking._new_steps()) == []


def test_waiting_for_rows_throttling_and_other_nodes_are_named(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(monkeypatch, throttling=0x40)
    worker.devices = WorkerDevices(1, "cuda")
    claim = begin(worker)
    looking, events = watch(worker, claim, nodes=2)
    slow = [msgspec.structs.replace(each, data_wait_share=0.8) for each in steps(20, 100.0, 61)]
    write(claim.dir, [*steps(60, 1000.0), *slow])
    looking.look()
    said = str(events[0].message)
    assert said.startswith(f"{worker.host} or another of its 2 nodes became slow")
    assert "80% of it waiting for rows" in said
    assert said.endswith("; GPU 0: hardware thermal slowdown")


def test_the_node_that_made_a_job_slow_is_named_until_it_is_fast_again(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(monkeypatch, throttling=0x40)  # here, not on the node that is slow
    worker.devices = WorkerDevices(1, "cuda")
    claim = begin(worker)
    looking, events = watch(worker, claim, nodes=3)
    equal = behind(steps(60, 1000.0), "node1", "node2", share=0.97)
    write(claim.dir, [*equal, *behind(steps(20, 410.0, 61), "node2", share=0.38)])
    looking.look()
    (slow,) = events
    said = str(slow.message)
    assert (slow.event, slow.host) == ("slow", "node2")
    assert said.startswith("node2 became slow: 4")
    assert said.endswith("), its forward passes run at 38% of the other nodes' rate")
    write(claim.dir, behind(steps(40, 1000.0, 81), "node1", "node2", share=0.97))
    looking.look()
    looking.look()
    assert [each.event for each in events] == ["slow", "fast"]
    assert events[1].host == "node2"
    assert str(events[1].message).startswith("node2 is about as fast")


@pytest.mark.parametrize(
    ("hosts", "share"),
    [(("node1", "node2"), 0.3), (("node2",), 0.8), (("node2",), 1.0)],
    ids=["each of two", "a little slower", "as fast"],
)
def test_no_node_is_named_unless_one_is_clearly_slower(
    worker: Worker, hosts: tuple[str, ...], share: float
) -> None:
    claim = begin(worker)
    looking, events = watch(worker, claim, nodes=2)
    slow = behind(steps(20, 410.0, 61), *hosts, share=share)
    write(claim.dir, [*steps(60, 1000.0), *slow])
    looking.look()
    (event,) = events
    assert str(event.message).startswith(f"{worker.host} or another of its 2 nodes became slow")
    assert "forward" not in str(event.message)
    assert event.host is msgspec.UNSET


def test_a_node_that_is_known_only_later_gets_an_event_of_its_own(worker: Worker) -> None:
    claim = begin(worker)
    looking, events = watch(worker, claim, nodes=2)
    write(claim.dir, [*steps(60, 1000.0), *steps(20, 410.0, 61)])
    looking.look()
    write(claim.dir, behind(steps(20, 410.0, 81), "node2", share=0.4))
    looking.look()
    looking.look()
    assert [each.host for each in events] == [msgspec.UNSET, "node2"]
    expected = "node2 is slow: its forward passes run at 40% of the other nodes' rate"
    assert events[1].message == expected
    (row,) = jobspec_json("status", "--root", str(worker.root))["jobs"]
    assert row["note"] == expected


def test_a_node_that_lags_from_the_beginning_is_named_once(worker: Worker) -> None:
    claim = begin(worker)
    looking, events = watch(worker, claim, nodes=2)
    write(claim.dir, behind(steps(14, 1000.0), "node2", share=0.5))  # the first five warm up
    looking.look()
    assert events == []
    for first in range(15, 75, 10):
        write(claim.dir, behind(steps(10, 1000.0, first), "node2", share=0.5))
        looking.look()
    (event,) = events
    assert (event.event, event.host) == ("slow", "node2")
    assert event.message == "node2 is slow: its forward passes run at 50% of the other nodes' rate"


@pytest.mark.parametrize(
    "given",
    [
        behind(steps(80, 1000.0), "node2", share=0.7),
        behind(steps(80, 1000.0), "node1", "node2", share=0.5),
        [*steps(60, 1000.0), *behind(steps(40, 1000.0, 61), "node2", share=0.5)],
        [*behind(steps(60, 1000.0), "node2", share=0.5), *steps(30, 1000.0, 61)],
        behind(steps(80, 1000.0, seconds=0.5), "node2", share=0.5),
    ],
    ids=["a little", "each of two", "not at first", "no longer", "a short time"],
)
def test_a_steady_job_is_left_alone_unless_one_node_lags(
    worker: Worker, given: list[StepSpeed]
) -> None:
    claim = begin(worker)
    looking, events = watch(worker, claim, nodes=2)
    write(claim.dir, given)
    looking.look()
    assert events == []


def test_three_quarters_of_the_steps_make_a_host_the_slow_one() -> None:
    given = behind(steps(8, 1000.0), *["node2"] * 6, "node1", "node1", share=0.5)
    one = slow_host(given, 0.75)
    assert one is not None and (one.host, one.share) == ("node2", 0.5)
    assert slow_host([*given, *behind(steps(1, 1000.0), "node1", share=0.5)], 0.75) is None
    assert slow_host([], 0.75) is None


@pytest.mark.parametrize(
    ("gpu", "alarms"), [("NVIDIA H200", 1), ("NVIDIA B200", 0)], ids=["same GPUs", "other GPUs"]
)
def test_an_earlier_attempt_counts_if_it_had_the_same_devices(
    worker: Worker, gpu: str, alarms: int
) -> None:
    first = begin(worker)
    publish_manifest(first.dir, "elsewhere", gpu)
    write(first.dir, steps(60, 1000.0))
    first.requeue(records.Reason.PREEMPTED)
    second = worker.queue.claim(worker.id)
    assert second is not None and second.attempt == 2
    publish_manifest(second.dir, "here")
    write(second.dir, steps(30, 400.0, 61))
    looking, events = watch(worker, second)
    looking.look()
    assert len(events) == alarms


def running_peers(worker: Worker, count: int, rate: float, host: Callable[[int], str]) -> None:
    for number in range(count):
        name = f"peer{number}-{number:016x}"
        claim = enqueue_and_claim(worker.queue, tuned_spec(rate=1e-4 + number * 1e-5), name)
        publish_manifest(claim.dir, host(number))
        write(claim.dir, steps(20, rate))


@pytest.mark.parametrize(
    ("count", "rate", "host", "alarms"),
    [
        (3, 1000.0, "gpu{}", 1),
        (2, 1000.0, "gpu{}", 0),
        (3, 500.0, "gpu{}", 0),
        (3, 1000.0, "here", 0),
    ],
    ids=["slower", "too few", "all are slow", "all are here"],
)
def test_jobs_that_differ_in_what_costs_no_time_are_peers(
    worker: Worker, count: int, rate: float, host: str, alarms: int
) -> None:
    running_peers(worker, count, rate, host.format)
    claim = begin(worker)
    write(claim.dir, steps(40, 400.0))
    looking, events = watch(worker, claim)
    for _ in range(3):
        looking.look()
    assert len(events) == alarms
    if alarms:
        said = str(events[0].message)
        assert (
            said.startswith(f"{worker.host} is slow: ") and "the rate of 3 jobs like this" in said
        )


def test_the_node_that_makes_a_job_slower_than_its_peers_is_named(worker: Worker) -> None:
    running_peers(worker, 3, 1000.0, "gpu{}".format)
    claim = begin(worker)
    unequal = behind(steps(40, 400.0), "node2", share=0.7)
    write(claim.dir, unequal)
    looking, events = watch(worker, claim, nodes=2)
    looking.look()
    (event,) = events
    assert event.host == "node2"
    assert str(event.message).startswith("node2 is slow: 3")
    assert str(event.message).endswith("its forward passes run at 70% of the other nodes' rate")


def test_which_specs_should_be_equally_fast() -> None:
    spec = tuned_spec()
    assert spec.train is not None
    assert is_as_fast(spec, tuned_spec(rate=3e-4))
    longer = msgspec.structs.replace(spec.train, max_length=16384)
    assert not is_as_fast(spec, msgspec.structs.replace(spec, train=longer))
    assert not is_as_fast(spec, tuned_spec("Qwen/Qwen3-4B"))
    assert not is_as_fast(spec, msgspec.structs.replace(spec, train=None))


def test_settings_that_cost_no_time_are_still_settings() -> None:
    names = {field.name for field in msgspec.structs.fields(TrainSpec)}
    assert set(speed_watch._IRRELEVANT) <= names
