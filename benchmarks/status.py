"""How long `jobspec status` takes, and how much memory, in roots of many jobs.

    python -m benchmarks.status --root /scratch/somewhere

Creates a root with 200 running jobs, each with a worker, progress, metrics and a heartbeat, and
10,000, then 100,000 finished jobs. Runs the command several times and prints wall time and
processor time (minimum and median, s) and the maximum resident memory (MiB). Finished jobs consist
of queue entries only, because `status` opens only the newest twelve.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import Progress
from jobspec.records.base import State
from jobspec.records.worker import WorkerRecord
from jobspec.spec.schema import JobSpec, ModelSpec
from jobspec.storage import fs
from jobspec.storage.layout import Ticket

RUNNING = 200
FINISHED = (10_000, 100_000)
RUNS = 7


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.status", description=__doc__)
    parser.add_argument("--root", type=Path, help="where to make the roots [default: temporary]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.root) as folder:
        queue = Queue.create(Path(folder) / "root")
        for number in range(RUNNING):
            run_one(queue, number)
        made = 0
        for finished in FINISHED:
            finish(queue, made, finished)
            made = finished
            for more in ((), ("--json",)):
                print(json.dumps(measure(queue, finished, more)), flush=True)


def run_one(queue: Queue, number: int) -> None:
    """A job in training, with a worker that is alive."""
    worker = f"gpu{number:03d}-4711-{number}-{number:016x}"
    queue.heartbeat(worker)
    queue.enqueue(JobSpec(name=f"run-{number}", model=ModelSpec(name="some/model"), train=None))
    claim = queue.claim(worker)
    assert claim is not None
    shown = WorkerRecord(
        worker=worker, host=worker[:6], gpus=8, updated_at=records.utc_now(), job=claim.job
    )
    queue.heartbeat(worker, shown, job=claim.job)
    told = Progress(phase="train", done=43, total=100, unit="steps", eta_s=7421.0)
    fs.replace(claim.dir.progress, records.encode(told))
    row = {"phase": "train", "loss": 0.4, "tokens_per_second": 5210.0, "learning_rate": 1e-5}
    lines = [msgspec.json.encode(row | {"seq": n, "step": n}) for n in range(1000)]
    claim.dir.metrics.write_bytes(b"\n".join(lines) + b"\n")


def finish(queue: Queue, first: int, last: int) -> None:
    """Entries of jobs that ended."""
    where = queue.paths.state(State.SUCCEEDED)
    for number in range(first, last):
        ticket = Ticket(949, f"20261122T{number:012d}Z", f"qwen3-8b-lr1e-5-{number:010x}")
        (where / ticket.name).write_bytes(b"{}")


def measure(queue: Queue, finished: int, more: tuple[str, ...]) -> dict[str, Any]:
    """Several runs of the command."""
    command = [sys.executable, "-m", "jobspec.cli", "status", *more, "--root"]
    walls: list[float] = []
    cpus: list[float] = []
    memory = 0.0
    for _ in range(RUNS):
        started = time.monotonic()
        with subprocess.Popen(
            [*command, str(queue.paths.root)], stdout=subprocess.DEVNULL
        ) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        walls.append(time.monotonic() - started)
        cpus.append(used.ru_utime + used.ru_stime)
        memory = max(memory, used.ru_maxrss / 1024)
    return {
        "finished": finished,
        "running": RUNNING,
        "command": " ".join(["status", *more]),
        "wall_s": [round(min(walls), 3), round(statistics.median(walls), 3)],
        "cpu_s": [round(min(cpus), 3), round(statistics.median(cpus), 3)],
        "memory_mib": round(memory, 1),
    }


if __name__ == "__main__":
    main()
