from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from jobspec.errors import DiskFull
from jobspec.records import base as records
from jobspec.storage.layout import JobPaths
from worker.checkpoints import convert, directories, integrity
from worker.checkpoints.directories import WriteSpeed
from worker.checkpoints.integrity import Conversion, FileSeal, Seal
from worker.phase import Phase


@pytest.fixture
def job(tmp_path: Path) -> JobPaths:
    return JobPaths(tmp_path / "jobs" / "a-0123456789")


def make_state(job: JobPaths, attempt: int, step: int) -> Path:
    path = job.attempt(attempt).checkpoints / f"step-{step}"
    (path / "global_step").mkdir(parents=True)
    (path / "global_step" / "rank0.pt").write_bytes(b"optimizer" * 100)
    (path / "trainer_state.json").write_text("{}")
    integrity.seal(path, Seal(attempt=attempt, step=step, world=2, zero_stage=2, save_s=1.5))
    return path


def test_a_sealed_state_is_whole(job):
    path = make_state(job, 1, 10)
    assert integrity.fault(path, hashes=True) is None
    seal = integrity.read_seal(path)
    assert seal is not None
    assert seal.size == 902
    assert (seal.attempt, seal.step, seal.world, seal.save_s) == (1, 10, 2, 1.5)
    assert sorted(seal.files) == ["global_step/rank0.pt", "trainer_state.json"]


def test_one_byte_less_one_byte_changed_one_file_gone_are_seen(job):
    path = make_state(job, 1, 10)
    file = path / "global_step" / "rank0.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert "has 899 bytes, not 900" in (integrity.fault(path, hashes=False) or "")
    file.write_bytes(b"x" + whole[1:])
    assert integrity.fault(path, hashes=False) is None
    assert "differs from its SHA-256" in (integrity.fault(path, hashes=True) or "")
    file.unlink()
    assert "is missing" in (integrity.fault(path, hashes=False) or "")
    (path / "COMPLETE").write_bytes(b"")
    assert "COMPLETE" in (integrity.fault(path, hashes=False) or "")


def test_a_new_attempt_takes_the_newest_whole_state_into_its_own_directory(job):
    make_state(job, 1, 10)
    make_state(job, 2, 30)
    damaged = make_state(job, 2, 40)
    (damaged / "trainer_state.json").write_text("{")
    unfinished = make_state(job, 2, 50)
    (unfinished / "COMPLETE").unlink()

    taken, rejected = directories.take_over(job, job.attempt(3))

    assert taken == job.attempt(3).checkpoints / "step-30"
    assert directories.newest(job.attempt(3)) == taken
    assert rejected == ["attempt 2, step-40: `trainer_state.json` has 1 bytes, not 2"]
    assert not (job.attempt(2).checkpoints / "step-30").exists()
    assert not damaged.exists()
    # The one before it comes along, should a byte of the newest have changed.
    assert [path.name for path in directories.states(job.attempt(3))] == ["step-30", "step-10"]


def test_nothing_to_take_over_is_said_by_a_path_without_a_seal(job):
    taken, rejected = directories.take_over(job, job.attempt(2))
    assert integrity.read_seal(taken) is None
    assert rejected == []


def test_two_states_are_kept(job):
    for step in (10, 20, 100, 30):
        make_state(job, 1, step)
    directories.prune(job.attempt(1))
    kept = sorted(path.name for path in job.attempt(1).checkpoints.iterdir())
    assert kept == ["step-100", "step-30"]


def test_an_unfinished_state_does_not_count_among_the_two(job):
    for step in (10, 20):
        make_state(job, 1, step)
    (make_state(job, 1, 30) / "COMPLETE").unlink()
    directories.prune(job.attempt(1))
    assert len(directories.states(job.attempt(1))) == 3


def test_epochs_weights_are_kept_to_a_limit_newest_first(job):
    for epoch in range(1, 12):
        (job.attempt(1).checkpoints / f"epoch-{epoch}").mkdir(parents=True)
    directories.prune_epochs(job.attempt(1), keep=3)
    kept = {path.name for path in job.attempt(1).checkpoints.iterdir()}
    assert kept == {"epoch-9", "epoch-10", "epoch-11"}


def test_a_directory_gets_its_name_when_whole_and_replaces_an_older_one(tmp_path):
    for content in ("old", "new"):
        partial = tmp_path / ".model.partial"
        (partial / "deep").mkdir(parents=True)
        (partial / "deep" / "file").write_text(content)
        directories.publish_directory(partial, tmp_path / "model")
        assert not partial.exists()
    assert (tmp_path / "model" / "deep" / "file").read_text() == "new"
    shutil.rmtree(tmp_path / "model")


# --- shared by ranks


def test_ranks_seal_what_they_wrote_and_read_shares_of_like_size(job):
    path = make_state(job, 1, 10)
    names = ["zero_pp_rank_0_mp_rank_00_optim_states.pt", "bf16_zero_pp_rank_1_mp_rank_00_x.pt"]
    names += ["rng_state_1.pth", "mp_rank_00_model_states.pt", "zero_pp_rank_7_mp_rank_00_x.pt"]
    assert [integrity.rank_of(name, 2) for name in names] == [0, 1, 1, 0, 0]

    sizes = {"a": 50, "b": 30, "c": 25, "d": 20, "e": 0}
    files = {name: FileSeal(size=size, sha256="") for name, size in sizes.items()}
    shares = [integrity.share_of(files, rank, 2) for rank in range(2)]
    assert sorted(name for share in shares for name in share) == sorted(sizes)
    assert abs(sum(sizes[n] for n in shares[0]) - sum(sizes[n] for n in shares[1])) <= 20

    file = path / "global_step" / "rank0.pt"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    seen = [integrity.fault(path, hashes=True, rank=rank, world=2) for rank in range(2)]
    assert sorted(seen, key=bool) == [None, "`global_step/rank0.pt` differs from its SHA-256"]


def test_another_users_file_is_seen(job, monkeypatch):
    path = make_state(job, 1, 10)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert "belongs to another user" in (integrity.fault(path, hashes=False) or "")


# --- other ranks


def test_a_state_fits_the_ranks_that_made_it_or_any_once_converted(job):
    sealed = Seal(attempt=1, step=1, world=2, zero_stage=3)
    assert (sealed.fits(2), sealed.fits(1)) == (True, False)
    assert msgspec.structs.replace(sealed, zero_stage=0).fits(1)
    made = Conversion(from_ranks=2, seconds=1.0, size=1)
    assert msgspec.structs.replace(sealed, converted=made).fits(1)


def test_the_converted_state_is_the_newer_one_of_a_step(job):
    make_state(job, 1, 10)
    plain = make_state(job, 1, 20)
    universal = plain.with_name("step-20.universal")
    shutil.copytree(plain, universal)
    assert directories.newest(job.attempt(1)) == universal
    assert directories.misfit(job.attempt(1), 2) is None
    sealed = directories.misfit(job.attempt(1), 1)
    assert sealed is not None
    assert sealed.step == 20
    taken, _ = directories.take_over(job, job.attempt(2))
    assert taken.name == universal.name


def test_the_space_of_a_conversion_counts_shards_twice_and_one_of_zero_3_once_more():
    files = {f"x/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt": 100 + rank for rank in (0, 1)}
    sizes = {name: FileSeal(size=size, sha256="") for name, size in {**files, "rest": 7}.items()}
    sealed = Seal(attempt=1, step=1, world=2, zero_stage=2, files=sizes)
    assert sealed.conversion_space == 2 * 201 + 7
    assert msgspec.structs.replace(sealed, zero_stage=3).conversion_space == 2 * 201 + 7 + 101


def test_without_the_space_nothing_is_written(job):
    path = make_state(job, 1, 10)
    sealed = integrity.read_seal(path)
    assert sealed is not None
    huge = {**sealed.files, "x_optim_states.pt": FileSeal(size=1 << 62, sha256="")}
    with pytest.raises(DiskFull, match="are free") as caught:
        convert.convert(
            Phase("convert", job.attempt(1).dir), path, msgspec.structs.replace(sealed, files=huge)
        )
    assert "as many devices as before" in (caught.value.hint or "")
    assert [each.name for each in path.parent.iterdir()] == ["step-10"]


# --- what is not needed any more


def test_earlier_attempts_keep_no_state_once_this_one_has_its_own(job):
    make_state(job, 1, 10)
    make_state(job, 1, 20)
    (make_state(job, 2, 30) / "COMPLETE").unlink()
    (job.attempt(2).checkpoints / ".epoch-1.partial").mkdir()
    (job.attempt(2).checkpoints / "epoch-1").mkdir()
    (job.attempt(1).trash / "x").mkdir(parents=True)
    make_state(job, 3, 40)
    directories.prune_earlier(job, job.attempt(3))
    assert list(job.attempt(1).checkpoints.iterdir()) == []
    assert [each.name for each in job.attempt(2).checkpoints.iterdir()] == ["epoch-1"]
    assert not job.attempt(1).trash.exists()
    assert [each.name for each in directories.states(job.attempt(3))] == ["step-40"]


def test_who_was_reaped_prunes_nothing(job):
    make_state(job, 1, 10)
    make_state(job, 2, 20)
    job.attempt(3).dir.mkdir()
    directories.prune_earlier(job, job.attempt(2))
    assert [each.name for each in directories.states(job.attempt(1))] == ["step-10"]


# --- how long a save takes


def test_the_last_save_says_how_long_the_next_takes_before_it_a_measured_write(job):
    attempt = job.attempt(1)
    assert directories.save_s(attempt) == 0.0
    attempt.checkpoints.mkdir(parents=True)
    speed = WriteSpeed(size=100, bytes_per_s=25.0, save_s=4.0)
    directories.speed_file(attempt).write_bytes(records.encode(speed))
    assert directories.save_s(attempt) == 4.0
    make_state(job, 1, 10)
    assert directories.save_s(attempt) == 1.5
