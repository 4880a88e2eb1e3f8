from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobspec.paths import JobPaths
from worker import checkpoints, seals
from worker.seals import Seal


@pytest.fixture
def job(tmp_path: Path) -> JobPaths:
    return JobPaths(tmp_path / "jobs" / "a-0123456789")


def make_state(job: JobPaths, attempt: int, step: int) -> Path:
    path = job.attempt(attempt).checkpoints / f"step-{step}"
    (path / "global_step").mkdir(parents=True)
    (path / "global_step" / "rank0.pt").write_bytes(b"optimizer" * 100)
    (path / "trainer_state.json").write_text("{}")
    seals.seal(path, Seal(attempt=attempt, step=step, world=2, zero_stage=2, save_s=1.5))
    return path


def test_a_sealed_state_is_whole(job):
    path = make_state(job, 1, 10)
    assert seals.fault(path, hashes=True) is None
    seal = seals.read_seal(path)
    assert seal is not None
    assert (seal.attempt, seal.step, seal.world, seal.save_s) == (1, 10, 2, 1.5)
    assert sorted(seal.files) == ["global_step/rank0.pt", "trainer_state.json"]


def test_one_byte_less_one_byte_changed_one_file_gone_are_seen(job):
    path = make_state(job, 1, 10)
    file = path / "global_step" / "rank0.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert "has 899 bytes, not 900" in (seals.fault(path, hashes=False) or "")
    file.write_bytes(b"x" + whole[1:])
    assert seals.fault(path, hashes=False) is None
    assert "differs from its SHA-256" in (seals.fault(path, hashes=True) or "")
    file.unlink()
    assert "is missing" in (seals.fault(path, hashes=False) or "")
    (path / "COMPLETE").write_bytes(b"")
    assert "COMPLETE" in (seals.fault(path, hashes=False) or "")


def test_a_new_attempt_takes_the_newest_whole_state_into_its_own_directory(job):
    make_state(job, 1, 10)
    make_state(job, 2, 30)
    damaged = make_state(job, 2, 40)
    (damaged / "trainer_state.json").write_text("{")
    unfinished = make_state(job, 2, 50)
    (unfinished / "COMPLETE").unlink()

    taken, rejected = checkpoints.take_over(job, job.attempt(3))

    assert taken == job.attempt(3).checkpoints / "step-30"
    assert checkpoints.newest(job.attempt(3)) == taken
    assert rejected == ["attempt 2, step-40: `trainer_state.json` has 1 bytes, not 2"]
    assert not (job.attempt(2).checkpoints / "step-30").exists()
    assert not damaged.exists()
    # The one before it comes along, should a byte of the newest have changed.
    assert [path.name for path in checkpoints.states(job.attempt(3))] == ["step-30", "step-10"]


def test_nothing_to_take_over_is_said_by_a_path_without_a_seal(job):
    taken, rejected = checkpoints.take_over(job, job.attempt(2))
    assert seals.read_seal(taken) is None
    assert rejected == []


def test_two_states_are_kept(job):
    for step in (10, 20, 100, 30):
        make_state(job, 1, step)
    checkpoints.prune(job.attempt(1))
    kept = sorted(path.name for path in job.attempt(1).checkpoints.iterdir())
    assert kept == ["step-100", "step-30"]


def test_an_unfinished_state_does_not_count_among_the_two(job):
    for step in (10, 20):
        make_state(job, 1, step)
    (make_state(job, 1, 30) / "COMPLETE").unlink()
    checkpoints.prune(job.attempt(1))
    assert len(checkpoints.states(job.attempt(1))) == 3


def test_epochs_weights_are_kept_to_a_limit_newest_first(job):
    for epoch in range(1, 12):
        (job.attempt(1).checkpoints / f"epoch-{epoch}").mkdir(parents=True)
    checkpoints.prune_epochs(job.attempt(1), keep=3)
    kept = {path.name for path in job.attempt(1).checkpoints.iterdir()}
    assert kept == {"epoch-9", "epoch-10", "epoch-11"}


def test_a_directory_gets_its_name_when_whole_and_replaces_an_older_one(tmp_path):
    for content in ("old", "new"):
        partial = tmp_path / ".model.partial"
        (partial / "deep").mkdir(parents=True)
        (partial / "deep" / "file").write_text(content)
        checkpoints.publish_directory(partial, tmp_path / "model")
        assert not partial.exists()
    assert (tmp_path / "model" / "deep" / "file").read_text() == "new"
    shutil.rmtree(tmp_path / "model")
