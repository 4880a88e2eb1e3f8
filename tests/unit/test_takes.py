"""Whether a worker takes a job whose resume state other ranks made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobspec.queue import Queue
from jobspec.record import Reason, State
from jobspec.spec import DataSpec, JobSpec, ModelSpec
from worker import seals
from worker.launch import Devices
from worker.loop import Options, Worker
from worker.seals import FileSeal, Seal


def stopped_job(queue: Queue, size: int) -> None:
    """A job that two ranks left with a state of so many bytes, as its seal says."""
    model, data = ModelSpec(name="m"), DataSpec(path="/d", sha256="0" * 64)
    job = queue.enqueue(JobSpec(name="x", model=model, data=data))
    claim = queue.claim("first")
    assert claim is not None
    state = job.paths.attempt(1).checkpoints / "step-5"
    state.mkdir(parents=True)
    files = {"zero_pp_rank_0_mp_rank_00_optim_states.pt": FileSeal(size=size, sha256="")}
    seals.seal(state, Seal(attempt=1, step=5, world=2, zero_stage=2, files=files))
    assert claim.requeue(Reason.PREEMPTED) is State.PENDING


@pytest.mark.parametrize(
    ("devices", "size", "taken"), [(2, 1 << 60, True), (1, 1 << 60, False), (1, 1000, True)]
)
def test_a_job_is_taken_with_as_many_devices_or_with_space_to_convert(
    tmp_path: Path, devices: int, size: int, taken: bool
) -> None:
    queue = Queue.create(tmp_path / "root")
    stopped_job(queue, size)
    worker = Worker(queue, Options(), Devices(devices))
    try:
        claim = queue.claim(worker.id, worker.fits, worker._takes_now)
        assert (claim is not None) is taken
    finally:
        shutil.rmtree(worker.tmp)
