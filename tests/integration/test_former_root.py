"""A root written by jobspec 0.1 (tests/data/root-0.1, from `jobspec demo`) is read as before."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records import metrics
from jobspec.records.attempt import Result
from jobspec.records.worker import WorkerRecord
from tests.support.commands import jobspec, jobspec_json

FORMER = Path(__file__).parents[1] / "data" / "root-0.1"
TUNED, UNTRAINED = "demo-model-lr5e-3-1dbda477e4", "demo-untrained-6633fedc73"
FAILED, PENDING = "demo-failed-428d9eadda", "demo-pending-9dde55cb34"
CANCELLED = "demo-cancelled-dc03ecd03f"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(FORMER, tmp_path / "root", symlinks=True)
    Queue.create(tmp_path / "root")  # git keeps no empty directories
    return tmp_path / "root"


def test_status_lists_every_job_and_worker(root: Path) -> None:
    status = jobspec_json("status", "--root", root)
    states = {job["job"]: job["state"] for job in status["jobs"]}
    assert states == {
        TUNED: "succeeded",
        UNTRAINED: "succeeded",
        FAILED: "failed",
        CANCELLED: "cancelled",
        PENDING: "pending",
    }
    (worker,) = status["workers"]
    assert (worker["host"], worker["state"]) == ("node1", "silent")
    record = records.read(next((root / "queue" / "workers").glob("*.json")), WorkerRecord)
    assert record is not None and (record.pid, record.version) == (4211, "0.1.0")


@pytest.mark.parametrize("job", [TUNED, UNTRAINED, FAILED, CANCELLED, PENDING])
def test_show_prints_every_job(root: Path, job: str) -> None:
    shown = jobspec_json("show", job, "--root", root)
    assert shown["spec"]["name"] == job.rpartition("-")[0]
    assert job in jobspec("show", job, "--root", root).stdout


def test_show_has_the_reports_of_the_phases(root: Path) -> None:
    result = jobspec_json("show", TUNED, "--root", root)["result"]
    assert (result["train"]["steps"], result["prepare"]["rows_train"]) == (190, 150)
    assert result["protocol"]["aime_demo"]["k"] == 4
    provenance = jobspec_json("show", TUNED, "--root", root)["manifest"]
    assert provenance["plan"]["world_size"] == 2
    assert provenance["engine"]["class"] == "DeepSpeedEngine"
    assert jobspec_json("show", UNTRAINED, "--root", root)["result"]["metrics"]


def test_results_have_scores_and_intervals(root: Path) -> None:
    rows = jobspec_json("results", "--root", root)["results"]
    scores = {row["job"]: row["scores"]["aime_demo"] for row in rows}
    assert scores[TUNED]["value"] == pytest.approx(0.952, abs=1e-3)
    assert scores[UNTRAINED]["value"] == 0
    assert all(score["low"] <= score["value"] <= score["high"] for score in scores.values())


def test_logs_metrics_and_samples_are_read(root: Path) -> None:
    logs = jobspec_json("logs", TUNED, "--root", root)["logs"]
    assert "train" in {log["phase"] for log in logs}
    history = metrics.history(Queue(root).job(TUNED).paths, "train")
    assert metrics.latest(history, "loss") is not None
    samples = jobspec_json("samples", UNTRAINED, "--root", root)["samples"]
    assert samples


def test_fsck_finds_nothing_to_repair(root: Path) -> None:
    repairs = Queue(root).fsck()
    assert not any((repairs.completed, repairs.rebuilt, repairs.restored, repairs.hopeless))


def test_the_report_shows_the_runs(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    jobspec("report", "--root", root, "-o", page)
    text = page.read_text()
    assert TUNED in text and "DeepSpeed" not in text[:100]


def test_its_pending_job_can_be_claimed_and_finished(root: Path) -> None:
    queue = Queue(root)
    worker = "node2-0123456789abcdef"
    queue.heartbeat(worker)
    claim = queue.claim(worker)
    assert claim is not None and claim.job == PENDING
    claim.finish("succeeded", Result(job=claim.job, attempt=1, metrics={"bench/x/y": 1.0}))
    assert queue.job(PENDING).state == "succeeded"
