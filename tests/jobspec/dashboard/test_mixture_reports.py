"""What `show`, the report page and the relay say of the sources of a mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.dashboard.details import read_details
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records.attempt import Result
from jobspec.records.base import Reason
from jobspec.records.mixture import SourceReport, TokenCounts, TrainedSource
from jobspec.records.reports import PrepareReport, TrainReport
from jobspec.relay import tracked_run
from tests.support.commands import jobspec, jobspec_json
from tests.support.queues import ended, enqueue_and_claim, queue_at
from tests.support.specs import job_spec

NAMES = ("chat", "math")


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Queue, Job]:
    """A job that was trained on two sources for two epochs."""
    queue = queue_at(tmp_path)
    data = {"sources": [{"path": "/d/chat.jsonl"}, {"path": "/d/m.jsonl", "name": "math"}]}
    claim = enqueue_and_claim(queue, job_spec(name="mixed", data=data, train={}, eval=None))
    rows: list[dict[str, Any]] = [{"step": 1, "epoch": 1.0, "loss": 2.0, "trained_tokens/math": 70}]
    for step in range(3):
        losses = {"eval_loss": 3.0 - step, "eval_loss/chat": 4.0 - step, "eval_loss/math": 1.5}
        rows.append({"step": step, "epoch": float(step), **losses})
    claim.dir.metrics.write_bytes(
        b"".join(
            msgspec.json.encode(
                {"attempt": 1, "seq": n, "time": "2026-11-22T10:00:00Z", "phase": "train"} | row
            )
            + b"\n"
            for n, row in enumerate(rows)
        )
    )
    claim.end(ended(Reason.SUCCEEDED))
    prepared = PrepareReport(
        sources=tuple(
            SourceReport(
                name=name,
                rows_in=1000,
                repeat=1.5,
                train=TokenCounts(rows=1425),
                eval=TokenCounts(),
            )
            for name in NAMES
        )
    )
    train = TrainReport(
        steps=9,
        sources={"math": TrainedSource(trained_tokens=12345, eval_loss_first=2.5, eval_loss=1.25)},
    )
    result = Result(job=claim.job, attempt=claim.attempt, prepare=prepared, train=train)
    claim.finish("succeeded", result)
    return queue, queue.job(claim.job)


def test_show_has_a_line_for_each_source(mixed: tuple[Queue, Job]) -> None:
    queue, job = mixed
    lines = jobspec("show", job.id, "--root", queue.paths.root).stdout.splitlines()
    (math,) = (line for line in lines if line.startswith("math "))
    assert math.split() == ["math", "1,425", "1.5", "0", "12,345", "2.5", "→", "1.25"]
    (chat,) = (line for line in lines if line.startswith("chat "))
    assert chat.split()[-3:] == ["-", "→", "-"]
    result = jobspec_json("show", job.id, "--root", queue.paths.root)["result"]
    assert [source["name"] for source in result["prepare"]["sources"]] == list(NAMES)
    assert result["train"]["sources"]["math"]["eval_loss"] == 1.25


def test_the_page_has_a_curve_for_each_source(mixed: tuple[Queue, Job]) -> None:
    details = read_details(mixed[1])
    held_out = details.curves.held_out
    assert held_out["eval_loss/chat"] == [4, 3, 2] and held_out["eval_loss/math"] == [1.5] * 3
    origin = dict(details.origin)
    assert origin["source math"].startswith("/d/m.jsonl, SHA-256 ")


def test_the_relay_sends_the_losses_of_the_sources(mixed: tuple[Queue, Job]) -> None:
    (run,) = (run for run in tracked_run.runs_of(mixed[1], settled=False) if run.kind == "train")
    assert [row.values["train/eval_loss/math"] for row in run.rows[1:]] == [1.5, 1.5, 1.5]
    assert run.rows[0].values["train/trained_tokens/math"] == 70
