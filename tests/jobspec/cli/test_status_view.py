"""`jobspec status` as it is seen in terminals of 60 to 160 columns, and where there are many."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import msgspec
import pytest

from jobspec.cli import status_view
from jobspec.cli.output import without_digests
from jobspec.monitoring.status import JobRow, Status
from jobspec.monitoring.workers import WorkerRow
from jobspec.queue.entries import Entry
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records.attempt import Result
from jobspec.records.base import Reason, State
from jobspec.records.reports import TrainReport
from jobspec.spec.schema import ResourcesSpec
from jobspec.storage.layout import RootPaths, Ticket
from tests.support.commands import jobspec_json
from tests.support.paths import fast_dir
from tests.support.queues import (
    WORKER,
    claim_next,
    ended,
    enqueue_and_claim,
    none_running,
    report_progress,
    send_heartbeat,
)
from tests.support.specs import base_spec
from tests.support.terminal import Terminal
from worker.training.errors import NonFiniteLossError


@pytest.fixture
def queue() -> Iterator[Queue]:
    with fast_dir() as directory:  # its path's length is the same at every run
        yield Queue.create(directory / "r")


def seen(queue: Queue, columns: int, lines: int = 40) -> list[str]:
    """The screen after `jobspec status`."""
    terminal = Terminal("status", "--root", str(queue.paths.root), columns=columns, lines=lines)
    try:
        return terminal.screen()
    finally:
        terminal.close()


def everything(queue: Queue) -> None:
    """A job in every state, two that came back, one nobody can do; workers; quarantine."""
    none_running(queue)
    queue.enqueue(base_spec("a/b", name="wide", resources=ResourcesSpec(gpus=16)), priority=9)
    claim = enqueue_and_claim(queue, base_spec("a/b", name="thrice"))
    queue.reap(worker=WORKER, now=True)
    claim = claim_next(queue)
    claim.end(ended(Reason.NODE, step=400))
    claim.requeue("node")
    report_progress(claim_next(queue), 43, loss=0.41234, tokens_per_second=5210.0)
    now = datetime.now(UTC)
    facts = {
        "updated_at": (now - timedelta(seconds=125)).isoformat(),
        "started_at": (now - timedelta(seconds=7325)).isoformat(),
    }
    send_heartbeat(
        queue, WORKER, claim.job, **facts, slurm_job="4711_3", gpu_name="H100", busy_s=6696.0
    )
    send_heartbeat(
        queue, "gpu013-4711-4-00000000000000aa", None, **facts, note="its clock is 12 s ahead"
    )
    queue.quarantine("gpu7", "ECC errors", 3600)


AT_60 = """\
ROOT
6 jobs: 2 pending, 1 running, 1 succeeded, 1 failed,
  1 cancelled

JOB                   STATE              TIME    LOSS
thrice                train 43 %  2h 03m left  0.4123
  └ attempts 1: its worker was lost on gpu012, 2: bad node
    (1 of 5) at step 400 on gpu012
qwen3-8b-base-PPPP    pending
  └ attempt 1: out of wall time (1 of 3 in a row without
    progress) on gpu012
wide                  pending
  └ waits for 16 GPUs, workers have 8
olmo-3-7b-think-base  failed           1h 01m
  └ failed: row 17: no final turn
  └ hint: look at row 17
qwen3-8b-base-SSSS    succeeded        1h 01m
qwen3-8b-base-CCCC    cancelled

2 workers alive (1 busy, 1 idle; busy 93% of their time)

WORKER         STATE  BUSY  SLURM   JOB           SEEN
gpu013-4711-4  idle                         2m 05s ago
  └ its clock is 12 s ahead
gpu012-4711-3  busy    93%  4711_3  thrice  2m 05s ago

quarantined: gpu7: ECC errors
"""
AT_80 = """\
ROOT
6 jobs: 2 pending, 1 running, 1 succeeded, 1 failed, 1 cancelled

JOB                   STATE              TIME    LOSS  FIGURES
thrice                train 43 %  2h 03m left  0.4123  5,210 tok/s
  └ attempts 1: its worker was lost on gpu012, 2: bad node (1 of 5) at step 400
    on gpu012
qwen3-8b-base-PPPP    pending
  └ attempt 1: out of wall time (1 of 3 in a row without progress) on gpu012
wide                  pending
  └ waits for 16 GPUs, workers have 8
olmo-3-7b-think-base  failed           1h 01m
  └ failed: row 17: no final turn
  └ hint: look at row 17
qwen3-8b-base-SSSS    succeeded        1h 01m          math500 0.930 …
qwen3-8b-base-CCCC    cancelled

2 workers alive (1 busy, 1 idle; busy 93% of their time)

WORKER                          STATE  BUSY  SLURM   GPUS     JOB           SEEN
gpu013-4711-4-00000000000000aa  idle                 8× GPU           2m 05s ago
  └ its clock is 12 s ahead
gpu012-4711-3-0123456789abcdef  busy    93%  4711_3  8× H100  thrice  2m 05s ago

quarantined: gpu7: ECC errors
"""
AT_160 = """\
ROOT  6 jobs: 2 pending, 1 running, 1 succeeded, 1 failed, 1 cancelled

JOB                              STATE                          TIME    LOSS  FIGURES                      TRY  HOST    WORKER
thrice-RRRRRRRRRR                train 43 %  ████░░░░░░  2h 03m left  0.4123  5,210 tok/s                    3  gpu012  gpu012-4711-3-0123456789abcdef
  └ attempts 1: its worker was lost on gpu012, 2: bad node (1 of 5) at step 400 on gpu012
qwen3-8b-base-PPPPPPPPPP         pending                                                                     2
  └ attempt 1: out of wall time (1 of 3 in a row without progress) on gpu012
wide-PPPPPPPPPP                  pending
  └ waits for 16 GPUs, workers have 8
olmo-3-7b-think-base-FFFFFFFFFF  failed                       1h 01m                                            gpu012  gpu012-4711-3-0123456789abcdef
  └ failed: row 17: no final turn
  └ hint: look at row 17
qwen3-8b-base-SSSSSSSSSS         succeeded                    1h 01m          math500 0.930, aime24 0.700       gpu012  gpu012-4711-3-0123456789abcdef
qwen3-8b-base-CCCCCCCCCC         cancelled

2 workers alive (1 busy, 1 idle; busy 93% of their time)

WORKER                          STATE  BUSY  SLURM   HOST    GPUS     JOB                      SEEN
gpu013-4711-4-00000000000000aa  idle                 gpu013  8× GPU                      2m 05s ago
  └ its clock is 12 s ahead
gpu012-4711-3-0123456789abcdef  busy    93%  4711_3  gpu012  8× H100  thrice-RRRRRRRRRR  2m 05s ago

quarantined: gpu7: ECC errors
"""  # noqa: E501 - a screen of 160 columns


@pytest.mark.parametrize(("columns", "golden"), [(60, AT_60), (80, AT_80), (160, AT_160)])
def test_status_as_it_is_seen(queue: Queue, columns: int, golden: str) -> None:
    everything(queue)
    shown = "\n".join(seen(queue, columns)) + "\n"
    shown = shown.replace(str(queue.paths.root), "ROOT")
    for job in queue.jobs():
        digest = job.id.rpartition("-")[2]
        letter = job.state.value[0].upper()
        shown = shown.replace(digest, letter * len(digest)).replace(digest[:4], letter * 4)
    shown = re.sub(r"2m \d\ds ago", "2m 05s ago", shown)
    assert shown == golden
    assert max(map(len, shown.splitlines())) <= columns


def finished(queue: Queue, name: str, **losses: float) -> None:
    """A job that has trained, with these losses."""
    claim = enqueue_and_claim(queue, base_spec(name=name))
    claim.end(ended(Reason.SUCCEEDED))
    train = msgspec.convert({"steps": 9, "train_s": 9.0, **losses}, TrainReport)
    claim.finish("succeeded", Result(job=claim.job, attempt=claim.attempt, train=train))


def training(queue: Queue, name: str, by_step: float) -> None:
    """A running job whose loss began at 2 and changes by so much at each of 59 steps."""
    claim = enqueue_and_claim(queue, base_spec(name=name))
    report_progress(claim, 43)
    rows = [{"phase": "train", "step": n, "loss": 2 + by_step * n} for n in range(1, 60)]
    claim.dir.metrics.write_bytes(b"\n".join(map(msgspec.json.encode, rows)) + b"\n")


def rows_by_name(queue: Queue) -> dict[str, str]:
    lines = [line for line in seen(queue, 80) if line and line[0].isalpha()]
    return {line.split()[0].partition("-")[0]: line for line in lines}


def test_losses_of_finished_runs_and_marks_of_diverged_ones(queue: Queue) -> None:
    finished(queue, "good", loss_first=2.0, loss=0.3125, eval_loss_first=2.0, eval_loss=0.5)
    finished(queue, "worse", loss_first=2.0, loss=7.5, eval_loss_first=2.0, eval_loss=8.0)
    claim = enqueue_and_claim(queue, base_spec(name="broken"))
    claim.end(ended(Reason.FAILED, message=str(NonFiniteLossError(math.nan, 12)), phase="train"))
    claim.finish("failed")
    training(queue, "learns", -0.02)
    training(queue, "diverges", 0.1)
    shown = rows_by_name(queue)
    assert shown["good"].split()[1:] == ["succeeded", "1h", "01m", "0.3125", "0.5"]
    assert shown["worse"].split()[1:] == ["succeeded", "1h", "01m", "7.5", "▲", "8"]
    assert shown["broken"].split()[1:] == ["failed", "1h", "01m", "NaN", "▲"]
    assert "▲" not in shown["learns"] and "0.82" in shown["learns"]
    assert "7.9 ▲" in shown["diverges"]
    found = jobspec_json("status", "--root", queue.paths.root)["jobs"]
    by_name = {row["name"]: row for row in found}
    assert by_name["broken"]["non_finite"] and not by_name["worse"]["non_finite"]
    assert by_name["diverges"]["loss_rise"] == {"first": 2.1, "last": pytest.approx(7.55)}
    assert by_name["good"]["loss"] == 0.3125 and by_name["good"]["eval_loss"] == 0.5


def test_a_hold_is_shown_also_while_jobs_run(queue: Queue) -> None:
    training(queue, "runs", -0.02)
    queue.enqueue(base_spec(name="waits"))
    queue.hold("quota is full", by="ada")
    hold = next(line for line in seen(queue, 100) if "hold" in line)
    assert re.fullmatch(
        r"on hold: quota is full \(by ada, for \ds, `jobspec release` lifts it\)", hold
    )
    shown = rows_by_name(queue)
    assert shown["waits"].split()[1:] == ["held"]
    assert shown["runs"].split()[1:4] == ["train", "43", "%"]
    told = jobspec_json("status", "--root", queue.paths.root)
    assert told["hold"]["by"] == "ada" and told["jobs"][1]["state"] == "pending"


def test_names_that_two_jobs_share_keep_a_part_of_their_digests() -> None:
    ids = ["a-0123456789", "b-0123456789", "b-0123000000", "c-d-ffff456789"]
    assert without_digests(ids) == ["a", "b-01234567", "b-01230000", "c-d"]


def two_hundred(root: RootPaths) -> tuple[Status, list[Job]]:
    """What is printed for 200 running jobs and as many workers."""
    numbers = range(200)
    tickets = [Ticket(500, "20261122T100000000000Z", f"job-{n:010x}") for n in numbers]
    jobs = [Job(Entry(State.RUNNING, ticket, f"w-{n}"), root) for n, ticket in enumerate(tickets)]
    told = Status(
        root=str(root.root),
        counts={"running": 200},
        jobs=[JobRow(job=job.id, name="job", state="running", attempt=1) for job in jobs],
        workers=[
            WorkerRow(worker=f"w-{n}", alive=True, job=f"job-{n:010x}", state="busy")
            for n in numbers
        ],
        quarantine=[],
    )
    return told, jobs


@pytest.mark.parametrize("height", [3, 8, 24, 60])
def test_two_hundred_jobs_leave_room_for_the_workers(height: int) -> None:
    drawn = status_view.lines(*two_hundred(RootPaths(Path("/scratch/queue"))), height=height)
    assert len(drawn) <= height
    text = click.unstyle("\n".join(drawn))
    assert "200 running" in text and "200 workers alive (200 busy, 0 idle)" in text
    assert height < 8 or ("job-0000000000" in text and "lines" in text)


def test_without_a_height_every_job_is_drawn(tmp_path: Path) -> None:
    drawn = status_view.lines(*two_hundred(RootPaths(tmp_path)))
    assert sum("job-" in line for line in drawn) == 200 + status_view.WORKERS
    assert "and 188 more" in drawn[-1]
