"""Whether a worker claims a job that another worker began, and which files it deletes."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import msgspec
import pytest

from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import End
from jobspec.records.base import Reason, State
from jobspec.records.checkpoint import FileDigest
from jobspec.storage.layout import JobPaths
from tests.support.checkpoints import make_checkpoint
from tests.support.models import model_dir
from tests.support.prepared import assistant, user, write_rows
from tests.support.specs import train_spec
from worker.checkpoints import directories
from worker.host.devices import WorkerDevices
from worker.supervisor.attempt import Attempt
from worker.supervisor.commit import AttemptOutcome
from worker.supervisor.options import WorkerOptions
from worker.supervisor.worker import Worker


def stopped_job(queue: Queue, size: int, model: str = "m", data: str = "/d") -> JobPaths:
    """A job that two ranks left with a checkpoint of `size` bytes, by its manifest."""
    job = queue.enqueue(train_spec(model, data, data__sha256="0" * 64))
    claim = queue.claim("first")
    assert claim is not None
    files = {"zero_pp_rank_0_mp_rank_00_optim_states.pt": FileDigest(size=size, sha256="")}
    make_checkpoint(job.paths.attempt(1), 5, files=files)
    assert claim.requeue(Reason.PREEMPTED) is State.PENDING
    return job.paths


@pytest.mark.parametrize(
    ("devices", "size", "taken"), [(2, 1 << 60, True), (1, 1 << 60, False), (1, 1000, True)]
)
def test_a_job_is_taken_with_as_many_devices_or_with_space_to_convert(
    queue: Queue, devices: int, size: int, taken: bool
) -> None:
    stopped_job(queue, size)
    worker = Worker(queue, WorkerOptions(), WorkerDevices(devices))
    try:
        claim = queue.claim(worker.id, worker.fits, worker._may_acquire)
        assert (claim is not None) is taken
    finally:
        shutil.rmtree(worker.tmp)


@pytest.mark.parametrize(
    ("step_s", "time_limit_s", "taken"),
    [(None, 100.0, True), (None, 30.0, False), (500.0, 550.0, False), (500.0, 1200.0, True)],
)
def test_a_job_is_begun_only_where_a_useful_piece_of_it_fits(
    queue: Queue, step_s: float | None, time_limit_s: float, taken: bool
) -> None:
    """Its own measured step, a start and two saves; a minute while nothing was measured."""
    job = stopped_job(queue, 1000)
    if step_s is not None:
        rows = [{"step": n, "loss": 1.0, "step_s": step_s} for n in range(1, 4)]
        job.attempt(1).metrics.write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in rows))
    worker = Worker(queue, WorkerOptions(time_limit_s=time_limit_s), WorkerDevices(2))
    try:
        claim = queue.claim(worker.id, worker.fits, worker._may_acquire)
        assert (claim is not None) is taken
    finally:
        shutil.rmtree(worker.tmp)


def test_a_worker_backs_off_ever_longer_after_fast_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.05)  # seconds become twentieths
    worker = Worker(Queue.create(tmp_path / "root"), WorkerOptions(), WorkerDevices(2))

    def waits(state: State, wall_s: float) -> float:
        began = time.monotonic()
        worker._back_off(AttemptOutcome(state, Reason.FAILED, wall_s=wall_s))
        return time.monotonic() - began

    try:
        for least in (0.1, 0.2, 0.4):
            assert waits(State.FAILED, 1.0) >= least
        waits(State.SUCCEEDED, 1.0)
        assert worker._failures == 0
        assert waits(State.PENDING, 1.0) >= 0.1, "a failure that is tried again is one too"
        waits(State.FAILED, 3600.0)
        assert worker._failures == 0, "that was no fast one"
    finally:
        shutil.rmtree(worker.tmp)


def test_a_job_refused_for_its_input_keeps_its_checkpoints(tmp_path: Path, queue: Queue) -> None:
    """The data differs from what was enqueued: seen before training, nothing is lost by it."""
    data = write_rows(tmp_path / "rows.jsonl", [{"messages": [user("a"), assistant("b")]}])
    job = stopped_job(queue, 3, str(model_dir(tmp_path / "model")), str(data))
    (
        job.attempt(1).checkpoints / "step-5" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    ).write_text("abc")
    worker = Worker(queue, WorkerOptions(), WorkerDevices(2))
    try:
        worker.send_heartbeat()
        claim = queue.claim(worker.id)
        assert claim is not None
        assert Attempt(worker, claim).run().state is State.FAILED
    finally:
        shutil.rmtree(worker.tmp)
    end = records.read(job.attempt(2).end, End)
    assert end is not None
    assert (end.phase, end.reason) == ("prepare", Reason.FAILED)
    assert "$.data.sha256" in end.message
    assert end.hint
    kept = directories.newest_complete(job.attempt(2))
    assert kept is not None
    assert kept.dir.name == "step-5"
