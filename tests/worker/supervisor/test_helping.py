"""When an idle worker helps with another one's evaluation, and when it stops."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from jobspec.monitoring import workers
from jobspec.queue.claim import Claim
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.manifest import CodeVersion, UsedDevices
from jobspec.storage import fs
from jobspec.storage.layout import HelpPaths
from tests.support.queues import W, enqueue_and_claim
from tests.support.specs import job_spec, score_spec
from worker.host.devices import WorkerDevices
from worker.launch import manifest
from worker.supervisor import helping
from worker.supervisor.helping import give_back, last_line
from worker.supervisor.options import WorkerOptions
from worker.supervisor.worker import Worker


class FakeChild:
    """A helper's process that does nothing until the test sets its exit code."""

    started: ClassVar[list[FakeChild]] = []

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self.command, self.env, self.log = command, env, log
        self.code: int | None = None
        self.killed = False
        self.started.append(self)

    def wait(self, timeout_s: float) -> int | None:
        return self.code

    def kill(self) -> None:
        self.killed = True


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[FakeChild]:
    FakeChild.started = []
    monkeypatch.setattr(helping, "Child", FakeChild)
    return FakeChild.started


@pytest.fixture
def worker(queue: Queue) -> Iterator[Worker]:
    worker = Worker(queue, WorkerOptions(), WorkerDevices(1))
    worker.send_heartbeat()
    yield worker
    shutil.rmtree(worker.tmp)


def share(queue: Queue, claim: Claim, **changes: Any) -> HelpPaths:
    """What the owner of a job has published, `changes` in its manifest, with three open chunks."""
    facts = manifest.manifest(WorkerDevices(1), None, claim.worker, claim.spec)
    fs.publish(claim.dir.manifest, records.encode(msgspec.structs.replace(facts, **changes)))
    paths = queue.paths.job(claim.job).help_of(claim.attempt)
    for directory in (paths.open, paths.done, paths.taken):
        directory.mkdir(parents=True)
    paths.work.write_bytes(b"")
    for name in "abc":
        (paths.open / name).touch()
    queue.reap()  # the worker knows claims from its last look at them
    return paths


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_it_helps_and_gives_back_what_is_unfinished_when_it_is_stopped(
    queue: Queue, worker: Worker, started: list[FakeChild]
) -> None:
    claim = enqueue_and_claim(queue, score_spec(), W)
    paths = share(queue, claim)
    worker._helping.look()
    (child,) = started
    held = paths.held_by(worker.id)
    assert child.command[-3:] == ["-m", "worker.samples.helper", str(held)]
    assert sys.executable in child.command and child.env["HF_HUB_OFFLINE"] == "1"
    (row,) = [row for row in workers.rows(queue) if row.worker == worker.id]
    assert (row.helps, row.job, row.state) == (claim.job, None, "idle")
    held.mkdir()
    for name in "bc":
        (paths.open / name).rename(held / name)
    paths.result("c").touch()
    worker._helping.look()
    assert worker._helping.job == claim.job and len(started) == 1
    worker._helping.stop()
    assert child.killed and worker._helping.job is None
    assert (names(paths.open), names(held)) == (["a", "b"], [])
    (row,) = [row for row in workers.rows(queue) if row.worker == worker.id]
    assert row.helps is None


@pytest.mark.parametrize(
    "changes",
    [
        {"packages": {"torch": "0.1"}},
        {"code": CodeVersion(commit="of another version")},
        {"cpu": "another model"},
        {"device": UsedDevices(kind="cuda", name="NVIDIA H100", count=1)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_it_does_not_help_a_worker_of_another_kind(
    queue: Queue, worker: Worker, started: list[FakeChild], changes: dict[str, Any]
) -> None:
    share(queue, enqueue_and_claim(queue, score_spec(), W), **changes)
    worker._helping.look()
    assert started == []


def test_it_helps_no_job_that_needs_more_than_it_has(
    queue: Queue, worker: Worker, started: list[FakeChild]
) -> None:
    share(queue, enqueue_and_claim(queue, job_spec(resources={"gpu_memory_gib": 40}), W))
    worker._helping.look()
    assert started == []


@pytest.mark.parametrize("why", ["nothing is open", "the queue is on hold", "it is not fit"])
def test_it_does_not_begin_to_help_for_now(
    queue: Queue, worker: Worker, started: list[FakeChild], why: str
) -> None:
    paths = share(queue, enqueue_and_claim(queue, score_spec(), W))
    if why == "nothing is open":
        shutil.rmtree(paths.dir)
    elif why == "the queue is on hold":
        queue.hold()
    worker._helping.look(start=why != "it is not fit")
    assert started == []
    if why == "the queue is on hold":
        queue.release()
        worker._helping.look()
        assert len(started) == 1


@pytest.mark.parametrize("why", ["the owner has ended", "the claim was taken away"])
def test_it_stops_when_there_is_nothing_to_help_with(
    queue: Queue,
    worker: Worker,
    started: list[FakeChild],
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    claim = enqueue_and_claim(queue, score_spec(), W)
    paths = share(queue, claim)
    worker._helping.look()
    if why == "the owner has ended":
        shutil.rmtree(paths.dir)
    else:
        queue.cancel(claim.job)
        queue.reap()
    started[0].code = 1  # what it needed is gone
    worker._helping.look()
    assert started[0].killed and worker._helping.job is None
    assert "failed" not in capsys.readouterr().err


@pytest.mark.parametrize("fails", [True, False])
def test_a_helper_that_failed_is_not_started_again_for_the_same_attempt(
    queue: Queue,
    worker: Worker,
    started: list[FakeChild],
    capsys: pytest.CaptureFixture[str],
    fails: bool,
) -> None:
    claim = enqueue_and_claim(queue, score_spec(), W)
    share(queue, claim)
    worker._helping.look()
    started[0].log.write_text("RuntimeError: the GPU fell off the bus\n\n")
    started[0].code = 1 if fails else 0
    worker._helping.look()
    worker._helping.look()
    assert len(started) == (1 if fails else 2)
    said = f"{claim.job} failed, the job goes on without it: it ended with code 1: RuntimeError"
    assert (said in capsys.readouterr().err) == fails


def test_a_helper_that_makes_no_progress_is_killed(
    queue: Queue, worker: Worker, started: list[FakeChild], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = share(queue, enqueue_and_claim(queue, score_spec(), W))
    now = 0.0
    monkeypatch.setattr(helping.time, "monotonic", lambda: now)
    worker._helping.look()
    held = paths.held_by(worker.id)
    held.mkdir()
    now = 3000.0
    (paths.open / "a").rename(held / "a")
    worker._helping.look()
    now = 6000.0
    worker._helping.look()
    assert not started[0].killed
    now = 6601.0
    worker._helping.look()
    assert started[0].killed and names(paths.open) == ["a", "b", "c"]
    worker._helping.look()
    assert len(started) == 1


def test_a_root_that_does_not_answer_ends_nothing(
    queue: Queue,
    worker: Worker,
    started: list[FakeChild],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    share(queue, enqueue_and_claim(queue, score_spec(), W))
    worker._helping.look()

    def broken(path: Path) -> list[str]:
        raise OSError(13, "Permission denied", str(path))

    monkeypatch.setattr(fs, "list_names", broken)
    worker._helping.look()
    assert "the root does not answer" in capsys.readouterr().err
    worker._helping.stop()
    assert started[0].killed


def test_nothing_is_given_back_where_nothing_is_left(tmp_path: Path) -> None:
    give_back(tmp_path / "help" / "1" / "taken" / "w")
    assert list(tmp_path.iterdir()) == []


def test_the_last_line_of_a_log_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_text("one\n  two\n\n")
    assert last_line(log) == "two"
