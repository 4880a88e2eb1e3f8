"""Archives of jobs, and the queue after a purge, with real files."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from jobspec.errors import JobspecError
from jobspec.maintenance import archive
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from tests.support.commands import jobspec, jobspec_json, run_checked
from tests.support.queues import scores, succeed
from tests.support.specs import base_spec


def trained(queue: Queue) -> Job:
    job = succeed(queue, base_spec(), scores(0.9, 0.7))
    attempt = job.paths.attempt(job.attempt)
    for name in ("final_model/model.safetensors", "checkpoints/step-9/state.pt", "eval/a b.jsonl"):
        path = attempt.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000)
    return job


def test_a_copy_can_be_verified_with_sha256sum(queue: Queue, tmp_path: Path) -> None:
    job = trained(queue)
    before = {path: path.stat().st_mtime_ns for path in job.paths.dir.rglob("*")}
    (archived,) = jobspec_json("archive", job.id, tmp_path / "kept", "--root", queue.paths.root)[
        "archived"
    ]
    place = Path(archived["place"])
    checked = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    run_checked(checked, cwd=place)
    names = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert {
        "spec.json",
        "attempts/1/result.json",
        "attempts/1/final_model/model.safetensors",
    } < names
    assert "attempts/1/eval/a b.jsonl" in names and not any("checkpoints" in n for n in names)
    assert archived["files"] == len(names) - 1  # SHA256SUMS itself
    assert before == {path: path.stat().st_mtime_ns for path in job.paths.dir.rglob("*")}
    again = jobspec("archive", job.id, tmp_path / "kept", "--root", queue.paths.root)
    assert "already there and intact" in again.stdout


def test_weights_can_be_left_out(queue: Queue, tmp_path: Path) -> None:
    job = trained(queue)
    job.paths.help_of(1).open.mkdir(parents=True)
    (job.paths.help_of(1).open / "chunk").touch()
    archive.archive(job, tmp_path / "kept", model=False)
    assert not list((tmp_path / "kept").rglob("*.safetensors"))
    assert not list((tmp_path / "kept").rglob("chunk"))  # of use to workers only


def test_a_damaged_copy_and_a_changed_job_are_reported(queue: Queue, tmp_path: Path) -> None:
    job = trained(queue)
    done = archive.archive(job, tmp_path / "kept")
    copy = Path(done.place) / "attempts/1/result.json"
    data = bytearray(copy.read_bytes())
    data[10] ^= 1
    copy.write_bytes(data)
    with pytest.raises(JobspecError, match=r"1 files are damaged: attempts/1/result.json"):
        archive.archive(job, tmp_path / "kept")
    data[10] ^= 1
    copy.write_bytes(data)
    (job.paths.attempt(1).dir / "later.txt").write_text("new")
    with pytest.raises(JobspecError, match=r"changed since it was copied: attempts/1/later.txt"):
        archive.archive(job, tmp_path / "kept")


def test_an_interrupted_copy_leaves_no_files(queue: Queue, tmp_path: Path) -> None:
    job = trained(queue)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))  # the weights are larger than that
    try:
        with pytest.raises(OSError, match="File too large"):
            archive.archive(job, tmp_path / "kept")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_job_that_has_not_ended_is_refused(queue: Queue, tmp_path: Path) -> None:
    job = queue.enqueue(base_spec())
    refused = jobspec("archive", job.id, tmp_path / "kept", "--root", queue.paths.root, code=1)
    assert "is pending" in refused.stderr and not (tmp_path / "kept").exists()


def test_a_glob_copies_ended_jobs_and_names_the_others(queue: Queue, tmp_path: Path) -> None:
    ended, root = trained(queue), ("--root", queue.paths.root)
    waits = queue.enqueue(base_spec(notes="waits"))
    done = jobspec("archive", "qwen3-*", tmp_path / "kept", *root)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [ended.id]
    assert f"1 job skipped, not ended yet: {waits.id}" in done.stderr and ended.id in done.stdout
    # A job that is named in addition to the glob must be archived, so this is an error.
    done = jobspec("archive", "qwen3-*", waits.id, tmp_path / "kept", *root, "--json", code=1)
    output = json.loads(done.stdout)
    assert (output["left"], len(output["archived"]), len(output["errors"])) == ([], 1, 1)
    assert output["errors"][0]["message"] == f"`{waits.id}` is pending"


def test_after_a_purge_the_queue_has_the_remaining_jobs(queue: Queue, tmp_path: Path) -> None:
    """A site deletes files that were not read for months: entries, records, one job completely."""
    ended = trained(queue)
    archive.archive(ended, tmp_path / "kept")
    waiting = queue.enqueue(base_spec(notes="waits"))
    gone = queue.enqueue(base_spec(notes="gone"))
    for state in ("succeeded", "pending"):
        for entry in (queue.paths.root / "queue" / state).iterdir():
            entry.unlink()
    for name in ("spec.json", "enqueue.json"):
        (gone.paths.dir / name).unlink()
    repairs = json.loads(jobspec("fsck", "--json", "--root", queue.paths.root).stdout)
    assert sorted(repairs["rebuilt"]) == sorted([ended.id, waiting.id])
    assert repairs["hopeless"] == [gone.id]
    states = {job.id: job.state.value for job in queue.jobs()}
    assert states == {ended.id: "succeeded", waiting.id: "pending"}
    assert archive.check(tmp_path / "kept" / ended.id) == []
