from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobspec.records import base as records
from jobspec.records.attempt import End
from jobspec.records.base import Reason
from jobspec.records.checkpoint import WriteSpeed
from jobspec.storage.layout import JobPaths
from tests.support.checkpoints import make_checkpoint
from worker.supervisor.attempt_history import AttemptHistory, read_history, stop_cost_s


@pytest.fixture
def job(tmp_path: Path) -> JobPaths:
    return JobPaths(tmp_path / "a-0123456789")


def attempt(job: JobPaths, number: int, micro: int = 4, **end) -> None:
    paths = job.attempt(number)
    paths.dir.mkdir(parents=True)
    plan = {"world_size": 2, "per_device_train_batch_size": micro}
    paths.manifest.write_text(json.dumps({"plan": plan, "unknown": 1}))
    paths.end.write_bytes(records.encode(End(**end)))


def test_a_first_attempt_has_no_past(job):
    assert read_history(job, 1) == AttemptHistory()


def test_memory_that_ran_out_halves_the_micro_batch_each_time(job):
    attempt(job, 1, reason=Reason.OOM, phase="train")
    assert read_history(job, 2).micro == 2
    attempt(job, 2, micro=2, reason=Reason.OOM, phase="train")
    attempt(job, 3, micro=1, reason=Reason.LOST)
    assert read_history(job, 4).micro == 1


def test_memory_that_ran_out_in_scoring_says_nothing_of_training(job):
    attempt(job, 1, reason=Reason.OOM, phase="eval")
    assert read_history(job, 2).micro is None


def test_only_the_last_attempts_unexplained_failure_speaks_against_a_host(job):
    attempt(job, 1, reason=Reason.FAILED, host="n1", unexplained=True)
    assert read_history(job, 2).failed_on == "n1"
    attempt(job, 2, reason=Reason.PREEMPTED, host="n2")
    assert read_history(job, 3).failed_on is None


def test_the_useful_time_is_a_start_a_step_and_two_saves(job):
    attempt(job, 1, reason=Reason.PREEMPTED, first_step_s=100.0)
    paths = job.attempt(1)
    rows = [{"step": n, "loss": 1.0, "step_s": 7.0} for n in range(3)]
    paths.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"torn')
    make_checkpoint(paths, 2, save_s=20.0)
    assert read_history(job, 2).useful_s == pytest.approx(100 + 7 + 40)


def test_the_newest_checkpoint_tells_which_number_of_ranks_it_fits(job):
    for number, step, world in ((1, 5, 4), (2, 9, 2)):
        attempt(job, number, reason=Reason.PREEMPTED)
        make_checkpoint(job.attempt(number), step, world=world)
    found = read_history(job, 3).state
    assert found is not None
    assert (found.step, found.world, found.fits(2), found.fits(4)) == (9, 2, True, False)
    job.attempt(2).done("train").write_text("{}")
    assert read_history(job, 3).state is None


def test_a_stop_takes_a_step_and_a_save_measured_before_there_was_one(job):
    attempt(job, 1, reason=Reason.LOST)
    paths = job.attempt(1)
    assert stop_cost_s(paths) == 0.0
    paths.checkpoints.mkdir()
    speed = WriteSpeed(size=100, bytes_per_s=25.0, save_s=4.0)
    paths.write_speed.write_bytes(records.encode(speed))
    paths.metrics.write_text('{"step": 1, "loss": 1.0, "step_s": 7.0}\n')
    assert stop_cost_s(paths) == 11.0
