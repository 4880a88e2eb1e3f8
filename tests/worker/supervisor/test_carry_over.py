from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobspec.storage.layout import JobPaths, PreparedPaths
from tests.support.checkpoints import make_checkpoint
from worker.data import dataset_cache
from worker.supervisor.carry_over import carry_over


@pytest.fixture
def job(tmp_path: Path) -> JobPaths:
    job = JobPaths(tmp_path / "jobs" / "a-0123456789")
    for number in (1, 2, 3):
        job.attempt(number).dir.mkdir(parents=True)
    (tmp_path / "cache" / "prepared" / "k").mkdir(parents=True)
    return job


def finish(job: JobPaths, number: int, phase: str, **summary) -> None:
    job.attempt(number).done(phase).write_text(json.dumps(summary))


def test_a_first_attempt_carries_nothing_over(job, tmp_path):
    assert carry_over(job, job.attempt(1), tmp_path) == []


def test_prepared_rows_are_kept_while_they_are_there(job, tmp_path):
    prepared = PreparedPaths(tmp_path / "cache" / "prepared" / "k")
    for split in (prepared.train, prepared.eval):
        split.dir.mkdir()
        for file in (split.rows, split.counts):
            file.write_bytes(b"rows")
    sizes = dataset_cache.file_sizes(prepared)
    prepared.report.write_text(json.dumps({"file_sizes": sizes}))
    finish(job, 1, "prepare", dir="cache/prepared/k")
    carry_over(job, job.attempt(2), tmp_path)
    assert json.loads(job.attempt(2).done("prepare").read_text())["dir"] == "cache/prepared/k"
    prepared.train.counts.unlink()  # as an earlier version left them, or a purge
    carry_over(job, job.attempt(3), tmp_path)
    assert not job.attempt(3).done("prepare").exists()


def test_a_finished_training_is_moved_model_first(job, tmp_path):
    job.attempt(1).final_model.mkdir()
    job.attempt(1).epoch(1).mkdir(parents=True)
    finish(job, 1, "train", loss=0.5)
    said = carry_over(job, job.attempt(2), tmp_path)
    assert "training had finished" in said[-1]
    assert job.attempt(2).final_model.is_dir()
    assert not job.attempt(1).final_model.exists()
    assert job.attempt(2).epoch(1).is_dir(), "an epoch may be left to score"
    # An attempt cut off between the two moves: the summary is one attempt's, the model another's.
    job.attempt(2).done("train").unlink()
    carry_over(job, job.attempt(3), tmp_path)
    assert job.attempt(3).final_model.is_dir()
    assert job.attempt(3).done("train").exists()


def test_a_model_without_its_summary_is_not_finished(job, tmp_path):
    job.attempt(1).final_model.mkdir()
    carry_over(job, job.attempt(2), tmp_path)
    assert not job.attempt(2).final_model.exists()


def test_checkpoints_and_epoch_weights_are_carried_over(job, tmp_path):
    first = job.attempt(1).checkpoints
    make_checkpoint(job.attempt(1), 7, world=1)
    (first / "epoch-1").mkdir()
    said = carry_over(job, job.attempt(2), tmp_path)
    assert said == ["resumes from step-7"]
    assert {path.name for path in job.attempt(2).checkpoints.iterdir()} == {"step-7", "epoch-1"}
