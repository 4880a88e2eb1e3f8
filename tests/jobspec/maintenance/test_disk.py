"""`gc`, `du` and the disk need that `enqueue` prints, with real directories and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.estimates.disk_need import footprint, together
from jobspec.maintenance import disk
from jobspec.queue.claim import Claim
from jobspec.queue.queue import Queue
from jobspec.records.base import Reason, State
from jobspec.spec import builder
from jobspec.spec.schema import JobSpec, LoraSpec
from jobspec.storage.layout import AttemptPaths
from tests.support.commands import jobspec, jobspec_json
from tests.support.queues import claim_next, ended, enqueue_and_claim, fail, succeed
from tests.support.specs import base_spec


def fill(attempt: AttemptPaths) -> None:
    """The files of a training, each of a different size."""
    for number, name in enumerate(
        (
            *("checkpoints/step-20/optim.pt", "checkpoints/step-20.universal/optim.pt"),
            *("checkpoints/.epoch-2.partial/model.safetensors", "trash/step-10.7/optim.pt"),
            *("checkpoints/epoch-1/model.safetensors", "final_model/model.safetensors"),
            *("eval/aime24/generations-00000.jsonl", "train.log"),
        )
    ):
        path = attempt.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(10**number))


DROPPED = 1111
KEPT = 11110000


def finished(queue: Queue, spec: JobSpec, reason: Reason | None) -> Claim:
    """A job with these files that succeeded, failed or still runs."""
    claim = enqueue_and_claim(queue, spec)
    fill(claim.dir)
    if reason is Reason.SUCCEEDED:
        claim.end(ended(reason))
        claim.finish("succeeded")
    elif reason is Reason.FAILED:
        claim.end(ended(reason))
        claim.finish("failed")
    return claim


def left(claim: Claim) -> set[str]:
    checkpoints = {path.name for path in claim.dir.checkpoints.iterdir()}
    return checkpoints | {path.name for path in claim.dir.dir.iterdir() if path.is_dir()}


def test_gc_deletes_what_a_succeeded_job_no_longer_needs(queue: Queue) -> None:
    claim = finished(queue, base_spec(), Reason.SUCCEEDED)
    root = queue.paths.root
    before = jobspec_json("gc", "--dry-run", "--root", root)
    assert before["bytes"] == DROPPED and before["dry_run"] and "trash" in left(claim)
    assert jobspec_json("gc", "--root", root)["freed"] == {claim.job: DROPPED}
    assert left(claim) == {"epoch-1", "checkpoints", "final_model", "eval"}
    assert not list(claim.dir.dir.rglob(".*"))
    assert jobspec_json("gc", "--root", root)["bytes"] == 0


def test_gc_keeps_running_jobs_and_checkpoints_that_a_retry_resumes_from(queue: Queue) -> None:
    failed = finished(queue, base_spec(notes="failed"), Reason.FAILED)
    runs = finished(queue, base_spec(notes="runs"), None)
    root = queue.paths.root
    assert jobspec_json("gc", "--root", root)["freed"] == {failed.job: 1000}  # its trash
    assert "step-20" in left(failed) and {"step-20", "trash"} <= left(runs)
    jobspec("gc", "--failed", "--state", "cancelled", "--root", root)
    assert "step-20" in left(failed)
    jobspec("gc", "--failed", "--root", root)
    assert "step-20" not in left(failed) and {"step-20", "trash"} <= left(runs)


def test_samples_that_helpers_left_are_kept_for_a_retry(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    done = queue.paths.job(claim.job).help_of(1).done
    done.mkdir(parents=True)
    (done / "chunk.jsonl").write_bytes(bytes(500))
    assert disk.measure_usage(queue.job(claim.job)).eval == 500
    claim.finish("failed")
    root = queue.paths.root
    assert jobspec_json("gc", "--root", root)["freed"] == {}
    assert jobspec_json("gc", "--failed", "--root", root)["freed"] == {claim.job: 500}
    assert sorted(path.name for path in queue.paths.jobs.iterdir()) == [claim.job]
    assert not queue.paths.job(claim.job).help.exists()


def test_checkpoints_of_all_attempts_are_deleted(queue: Queue) -> None:
    first = enqueue_and_claim(queue, base_spec())
    fill(first.dir)
    first.end(ended(Reason.PREEMPTED))
    first.requeue("preempted")
    second = claim_next(queue)
    second.end(ended(Reason.SUCCEEDED))
    second.finish("succeeded")
    jobspec("gc", "--root", queue.paths.root)
    assert "step-20" not in left(first)


def test_du_lists_the_parts(queue: Queue, tmp_path: Path) -> None:
    finished(queue, base_spec(), Reason.SUCCEEDED)
    succeed(queue, base_spec(notes="small"), {})
    (queue.paths.cache / "hub").mkdir(parents=True, exist_ok=True)
    (queue.paths.cache / "hub" / "blob").write_bytes(bytes(5000))
    (queue.paths.cache / "hub" / "link").symlink_to("blob")
    usage = jobspec_json("du", "--root", queue.paths.root, JOBSPEC_QUOTA_GIB="0.5")
    (large, small) = usage["jobs"]
    parts = large["job"]
    assert (parts["states"], parts["epochs"], parts["model"]) == (DROPPED, 10**4, 10**5)
    assert parts["eval"] == 10**6 and parts["rest"] > 10**7 and parts["freeable"] == DROPPED
    assert large["total"] >= KEPT + DROPPED and small["total"] < 10**5
    assert usage["cache"] == 5000 and usage["room"]["quota"] == 2**29
    shown = jobspec("du", "--root", queue.paths.root, JOBSPEC_QUOTA_GIB="0.5")
    assert "of the quota of 512 MiB used" in shown.stdout and "1.1 KiB" in shown.stderr


def test_files_that_vanish_during_the_scan_count_as_empty(queue: Queue, tmp_path: Path) -> None:
    assert disk.size_of(tmp_path / "none") == 0
    assert disk.delete(queue.paths.job("x-0123456789").attempt(1).trash) == 0


# --- disk need


def spec(model: str, **train: Any) -> JobSpec:
    made = builder.build(builder.Request(models=[model], data="/data/a.jsonl"))[0]
    assert made.train is not None
    return msgspec.structs.replace(made, train=msgspec.structs.replace(made.train, **train))


def test_the_disk_space_of_qwen3_8b(tmp_path: Path) -> None:
    full = footprint(spec("Qwen/Qwen3-8B", num_train_epochs=8.0, save_total_limit=3), tmp_path)
    assert full is not None
    weights = 8_190_735_360 * 2  # bytes of its safetensors, bfloat16
    assert full.stays == pytest.approx(4 * weights, rel=0.01)
    assert full.peak == pytest.approx(4 * weights + 3 * 7 * weights, rel=0.01)
    short = footprint(spec("Qwen/Qwen3-8B", num_train_epochs=1.0), tmp_path)
    assert short is not None and short.stays == pytest.approx(weights, rel=0.01)


def test_the_disk_space_of_adapters(tmp_path: Path) -> None:
    weights = 8_190_735_360 * 2
    adapter = 43_646_976 * 2  # r = 16 on the seven linear layers of 36 blocks, bfloat16
    job = spec("Qwen/Qwen3-8B", num_train_epochs=4.0, lora=LoraSpec())
    final = footprint(job, tmp_path)
    assert final is not None
    assert final.stays == pytest.approx(weights + 4 * adapter, rel=0.001)
    assert final.peak == pytest.approx(final.stays + 3 * 7 * adapter, rel=0.001)
    assert job.eval is not None
    scored = msgspec.structs.replace(job.eval, checkpoints="all")
    every = footprint(msgspec.structs.replace(job, eval=scored), tmp_path)
    assert every is not None and every.stays == final.stays
    # Two checkpoints, and an epoch's adapter merged into the weights.
    assert every.peak == pytest.approx(final.stays + 2 * 7 * adapter + weights, rel=0.001)


def test_several_jobs_and_models_of_unknown_size(tmp_path: Path) -> None:
    specs = [base_spec(), spec("no/such"), spec("Qwen/Qwen3-8B"), spec("Qwen/Qwen3-8B")]
    need = together(specs, tmp_path)
    one = footprint(specs[-1], tmp_path)
    assert one is not None and (need.stays, need.peak) == (2 * one.stays, 2 * one.peak)
    assert need.unknown == ["no/such"]


def test_enqueue_prints_the_disk_need_and_warns_if_space_is_short(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "a"}, '
                    '{"role": "assistant", "content": "<think>b</think> c"}]}\n')  # fmt: skip
    request = builder.Request(models=["Qwen/Qwen3-8B"], data=str(data))
    ((path, _),) = builder.write(builder.build(request), tmp_path / "specs")
    arguments = ("enqueue", path, "--no-row-check", "--root", tmp_path / "root")
    done = jobspec(*arguments)
    assert "disk: " in done.stderr and "when done, up to" in done.stderr and "free" in done.stderr
    again = json.loads(jobspec(*arguments, "--json").stdout)
    assert again["disk"] == {"stays": 0, "peak": 0, "unknown": []}  # the job exists already
    assert again["room"]["free"] > 0


def test_checkpoints_of_failed_jobs_are_not_freeable(queue: Queue) -> None:
    fail(queue, base_spec(), "no")
    (job,) = queue.jobs(State.FAILED)
    fill(job.paths.attempt(1))
    assert disk.measure_usage(job).freeable == 1000
