"""`jobspec status` as it is seen in terminals of 80 and 160 columns, and where there are many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

from jobspec.cli import status_view
from jobspec.monitoring.status import JobRow, Status
from jobspec.monitoring.workers import WorkerRow
from jobspec.queue.entries import Entry
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records.base import Reason, State
from jobspec.spec.schema import ResourcesSpec
from jobspec.storage.layout import RootPaths, Ticket
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


AT_80 = """\
ROOT
6 jobs: 2 pending, 1 running, 1 succeeded, 1 failed, 1 cancelled

JOB                              STATE                 ETA  FIGURES
thrice-RRRRRRRRRR                running train 43%  2h 03m  loss 0.4123 …
  └ attempts 1: its worker was lost on gpu012, 2: bad node (1 of 5) at step 400
    on gpu012
qwen3-8b-base-PPPPPPPPPP         pending
  └ attempt 1: out of wall time (1 of 3 in a row without progress) on gpu012
wide-PPPPPPPPPP                  pending
  └ waits for 16 GPUs, workers have 8
olmo-3-7b-think-base-FFFFFFFFFF  failed 1h 01m
  └ failed: row 17: no final turn
  └ hint: look at row 17
qwen3-8b-base-SSSSSSSSSS         succeeded 1h 01m           math500 0.930 …
qwen3-8b-base-CCCCCCCCCC         cancelled

2 workers alive (1 busy, 1 idle; busy 93% of their time)

WORKER                          STATE  BUSY  SLURM   JOB                    SEEN
gpu013-4711-4-00000000000000aa  idle                                  2m 05s ago
  └ its clock is 12 s ahead
gpu012-4711-3-0123456789abcdef  busy    93%  4711_3  thrice-RRRRRR …  2m 05s ago

quarantined: gpu7: ECC errors
"""
AT_160 = """\
ROOT  6 jobs: 2 pending, 1 running, 1 succeeded, 1 failed, 1 cancelled

JOB                              STATE                             ETA  FIGURES                      TRY  HOST    WORKER
thrice-RRRRRRRRRR                running train 43%  ████░░░░░░  2h 03m  loss 0.4123, 5,210 tok/s       3  gpu012  gpu012-4711-3-0123456789abcdef
  └ attempts 1: its worker was lost on gpu012, 2: bad node (1 of 5) at step 400 on gpu012
qwen3-8b-base-PPPPPPPPPP         pending                                                               2
  └ attempt 1: out of wall time (1 of 3 in a row without progress) on gpu012
wide-PPPPPPPPPP                  pending
  └ waits for 16 GPUs, workers have 8
olmo-3-7b-think-base-FFFFFFFFFF  failed 1h 01m                                                            gpu012  gpu012-4711-3-0123456789abcdef
  └ failed: row 17: no final turn
  └ hint: look at row 17
qwen3-8b-base-SSSSSSSSSS         succeeded 1h 01m                       math500 0.930, aime24 0.700       gpu012  gpu012-4711-3-0123456789abcdef
qwen3-8b-base-CCCCCCCCCC         cancelled

2 workers alive (1 busy, 1 idle; busy 93% of their time)

WORKER                          STATE  BUSY  SLURM   HOST    GPUS     JOB                      SEEN
gpu013-4711-4-00000000000000aa  idle                 gpu013  8× GPU                      2m 05s ago
  └ its clock is 12 s ahead
gpu012-4711-3-0123456789abcdef  busy    93%  4711_3  gpu012  8× H100  thrice-RRRRRRRRRR  2m 05s ago

quarantined: gpu7: ECC errors
"""  # noqa: E501 - a screen of 160 columns


@pytest.mark.parametrize(("columns", "golden"), [(80, AT_80), (160, AT_160)])
def test_status_as_it_is_seen(queue: Queue, columns: int, golden: str) -> None:
    everything(queue)
    shown = "\n".join(seen(queue, columns)) + "\n"
    shown = shown.replace(str(queue.paths.root), "ROOT")
    for job in queue.jobs():
        digest = job.id.rpartition("-")[2]
        shown = shown.replace(digest, job.state.value[0].upper() * len(digest))
    shown = re.sub(r"2m \d\ds ago", "2m 05s ago", shown)
    shown = re.sub(r"thrice-[0-9a-f]{2,}", lambda cut: "thrice-" + "R" * (len(cut[0]) - 7), shown)
    assert shown == golden
    assert max(map(len, shown.splitlines())) <= columns


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
