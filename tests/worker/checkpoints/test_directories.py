from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from jobspec.errors import DiskFull
from jobspec.records import base as records
from jobspec.records import phases
from jobspec.records.checkpoint import CheckpointManifest, Conversion, FileDigest, WriteSpeed
from jobspec.storage.layout import CheckpointPaths, JobPaths
from tests.support.checkpoints import make_checkpoint
from worker.checkpoints import convert, directories, integrity
from worker.phase import Phase


@pytest.fixture
def job(tmp_path: Path) -> JobPaths:
    return JobPaths(tmp_path / "jobs" / "a-0123456789")


def save(job: JobPaths, attempt: int, step: int) -> CheckpointPaths:
    content = {"global_step/rank0.pt": b"optimizer" * 100, "trainer_state.json": b"{}"}
    return make_checkpoint(job.attempt(attempt), step, content=content, save_s=1.5)


def names_of(checkpoints: list[CheckpointPaths]) -> list[str]:
    return [each.dir.name for each in checkpoints]


def test_a_checkpoint_with_a_manifest_is_complete(job):
    checkpoint = save(job, 1, 10)
    assert integrity.find_damage(checkpoint, hashes=True) is None
    found = integrity.read_manifest(checkpoint)
    assert found is not None
    assert found.size == 902
    assert (found.attempt, found.step, found.world, found.save_s) == (1, 10, 2, 1.5)
    assert sorted(found.files) == ["global_step/rank0.pt", "trainer_state.json"]


def test_a_truncated_a_changed_and_a_missing_file_are_reported(job):
    checkpoint = save(job, 1, 10)
    file = checkpoint.dir / "global_step" / "rank0.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert "has 899 bytes, not 900" in (integrity.find_damage(checkpoint, hashes=False) or "")
    file.write_bytes(b"x" + whole[1:])
    assert integrity.find_damage(checkpoint, hashes=False) is None
    assert "differs from its SHA-256" in (integrity.find_damage(checkpoint, hashes=True) or "")
    file.unlink()
    assert "is missing" in (integrity.find_damage(checkpoint, hashes=False) or "")
    checkpoint.manifest.write_bytes(b"")
    assert "COMPLETE" in (integrity.find_damage(checkpoint, hashes=False) or "")


def test_a_new_attempt_moves_the_newest_complete_checkpoint_into_its_own_directory(job):
    save(job, 1, 10)
    save(job, 2, 30)
    damaged = save(job, 2, 40)
    (damaged.dir / "trainer_state.json").write_text("{")
    unfinished = save(job, 2, 50)
    unfinished.manifest.unlink()

    carried, rejected = directories.carry_over(job, job.attempt(3))

    assert carried is not None
    assert carried.dir == job.attempt(3).checkpoints / "step-30"
    assert directories.newest_complete(job.attempt(3)) == carried
    assert rejected == ["attempt 2, step-40: `trainer_state.json` has 1 bytes, not 2"]
    assert not (job.attempt(2).checkpoints / "step-30").exists()
    assert not damaged.dir.exists()
    # The one before it is carried over too, in case a byte of the newest has changed.
    assert names_of(directories.list_checkpoints(job.attempt(3))) == ["step-30", "step-10"]


def test_without_earlier_checkpoints_nothing_is_carried_over(job):
    assert directories.carry_over(job, job.attempt(2)) == (None, [])


def test_two_checkpoints_are_kept(job):
    for step in (10, 20, 100, 30):
        save(job, 1, step)
    directories.prune_checkpoints(job.attempt(1))
    kept = sorted(path.name for path in job.attempt(1).checkpoints.iterdir())
    assert kept == ["step-100", "step-30"]


def test_an_incomplete_checkpoint_does_not_count_among_the_two(job):
    for step in (10, 20):
        save(job, 1, step)
    save(job, 1, 30).manifest.unlink()
    directories.prune_checkpoints(job.attempt(1))
    assert len(directories.list_checkpoints(job.attempt(1))) == 3


def test_only_the_newest_epochs_weights_are_kept(job):
    for epoch in range(1, 12):
        (job.attempt(1).checkpoints / f"epoch-{epoch}").mkdir(parents=True)
    directories.prune_epoch_weights(job.attempt(1), keep=3)
    kept = {path.name for path in job.attempt(1).checkpoints.iterdir()}
    assert kept == {"epoch-9", "epoch-10", "epoch-11"}


def test_a_directory_gets_its_name_once_complete_and_replaces_an_older_one(tmp_path):
    for content in ("old", "new"):
        partial = tmp_path / ".model.partial"
        (partial / "deep").mkdir(parents=True)
        (partial / "deep" / "file").write_text(content)
        directories.publish_directory(partial, tmp_path / "model")
        assert not partial.exists()
    assert (tmp_path / "model" / "deep" / "file").read_text() == "new"
    shutil.rmtree(tmp_path / "model")


# --- shared by ranks


def test_ranks_hash_what_they_wrote_and_verify_shares_of_similar_size(job):
    checkpoint = save(job, 1, 10)
    names = ["zero_pp_rank_0_mp_rank_00_optim_states.pt", "bf16_zero_pp_rank_1_mp_rank_00_x.pt"]
    names += ["rng_state_1.pth", "mp_rank_00_model_states.pt", "zero_pp_rank_7_mp_rank_00_x.pt"]
    assert [integrity.rank_of(name, 2) for name in names] == [0, 1, 1, 0, 0]

    sizes = {"a": 50, "b": 30, "c": 25, "d": 20, "e": 0}
    files = {name: FileDigest(size=size, sha256="") for name, size in sizes.items()}
    shares = [integrity.share_of(files, rank, 2) for rank in range(2)]
    assert sorted(name for share in shares for name in share) == sorted(sizes)
    assert abs(sum(sizes[n] for n in shares[0]) - sum(sizes[n] for n in shares[1])) <= 20

    file = checkpoint.dir / "global_step" / "rank0.pt"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    damage = [
        integrity.find_damage(checkpoint, hashes=True, rank=rank, world=2) for rank in range(2)
    ]
    assert sorted(damage, key=bool) == [None, "`global_step/rank0.pt` differs from its SHA-256"]


def test_another_users_file_is_reported(job, monkeypatch):
    checkpoint = save(job, 1, 10)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert "belongs to another user" in (integrity.find_damage(checkpoint, hashes=False) or "")


# --- other ranks


def test_a_checkpoint_fits_the_ranks_that_made_it_or_any_number_once_converted(job):
    manifest = CheckpointManifest(attempt=1, step=1, world=2, zero_stage=3)
    assert (manifest.fits(2), manifest.fits(1)) == (True, False)
    assert msgspec.structs.replace(manifest, zero_stage=0).fits(1)
    made = Conversion(from_ranks=2, seconds=1.0, size=1)
    assert msgspec.structs.replace(manifest, converted=made).fits(1)


def test_the_converted_checkpoint_is_preferred_over_the_original(job):
    save(job, 1, 10)
    plain = save(job, 1, 20)
    shutil.copytree(plain.dir, plain.dir.with_name("step-20.universal"))
    universal = directories.newest_complete(job.attempt(1))
    assert universal is not None
    assert universal.dir == plain.universal
    assert (universal.step, universal.is_universal, plain.is_universal) == (20, True, False)
    assert not directories.needs_conversion(job.attempt(1), 2)
    assert directories.needs_conversion(job.attempt(1), 1)
    carried, _ = directories.carry_over(job, job.attempt(2))
    assert carried is not None
    assert carried.dir.name == "step-20.universal"


def test_a_conversion_needs_space_for_all_shards_twice_and_for_one_more_of_zero_3():
    files = {f"x/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt": 100 + rank for rank in (0, 1)}
    sizes = {name: FileDigest(size=size, sha256="") for name, size in {**files, "rest": 7}.items()}
    manifest = CheckpointManifest(attempt=1, step=1, world=2, zero_stage=2, files=sizes)
    assert manifest.conversion_space == 2 * 201 + 7
    assert msgspec.structs.replace(manifest, zero_stage=3).conversion_space == 2 * 201 + 7 + 101
    assert msgspec.structs.replace(manifest, moment_bits=8).conversion_space == 4 * 201 + 7


def test_a_conversion_without_enough_space_writes_nothing(job):
    checkpoint = save(job, 1, 10)
    manifest = integrity.read_manifest(checkpoint)
    assert manifest is not None
    huge = {**manifest.files, "x_optim_states.pt": FileDigest(size=1 << 62, sha256="")}
    too_large = msgspec.structs.replace(manifest, files=huge)
    with pytest.raises(DiskFull, match="are free") as caught:
        convert.convert(Phase(phases.CONVERT, job.attempt(1).dir), checkpoint, too_large)
    assert "as many devices as before" in (caught.value.hint or "")
    assert [each.name for each in checkpoint.dir.parent.iterdir()] == ["step-10"]


# --- pruning


def test_earlier_attempts_keep_no_checkpoint_once_this_one_has_its_own(job):
    save(job, 1, 10)
    save(job, 1, 20)
    save(job, 2, 30).manifest.unlink()
    (job.attempt(2).checkpoints / ".epoch-1.partial").mkdir()
    (job.attempt(2).checkpoints / "epoch-1").mkdir()
    (job.attempt(1).trash / "x").mkdir(parents=True)
    save(job, 3, 40)
    directories.prune_earlier_attempts(job, job.attempt(3))
    assert list(job.attempt(1).checkpoints.iterdir()) == []
    assert [each.name for each in job.attempt(2).checkpoints.iterdir()] == ["epoch-1"]
    assert not job.attempt(1).trash.exists()
    assert names_of(directories.list_checkpoints(job.attempt(3))) == ["step-40"]


def test_an_attempt_that_lost_its_job_prunes_nothing(job):
    save(job, 1, 10)
    save(job, 2, 20)
    job.attempt(3).dir.mkdir()
    directories.prune_earlier_attempts(job, job.attempt(2))
    assert names_of(directories.list_checkpoints(job.attempt(1))) == ["step-10"]


# --- how long a save takes


def test_the_next_saves_duration_is_the_last_ones_or_a_test_writes_estimate(job):
    attempt = job.attempt(1)
    assert directories.expected_save_s(attempt) == 0.0
    attempt.checkpoints.mkdir(parents=True)
    speed = WriteSpeed(size=100, bytes_per_s=25.0, save_s=4.0)
    attempt.write_speed.write_bytes(records.encode(speed))
    assert directories.expected_save_s(attempt) == 4.0
    save(job, 1, 10)
    assert directories.expected_save_s(attempt) == 1.5
