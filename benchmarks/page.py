"""What the live page costs with 200 running jobs, and how fast a page of 200 runs opens.

    python -m benchmarks.page --root /scratch/somewhere

Creates a root with 200 running jobs whose progress and metrics change every five seconds, reads
the live page's events and the details of two runs, and prints the share of a processor that
`jobspec serve` takes. Then it writes a report of the jobs and prints how long headless Chromium
takes to load it, three times (s).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.status import RUNNING, run_one
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import Progress
from jobspec.storage import fs

INTERVAL_S = 5.0
LOADS = 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--root", type=Path, help="where to make the root [default: temporary]")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to watch")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.root) as folder:
        queue = Queue.create(Path(folder) / "root")
        for number in range(RUNNING):
            run_one(queue, number)
        print(json.dumps(serve(queue, args.seconds)), flush=True)
        print(json.dumps(load(queue, Path(folder) / "report.html")), flush=True)


def serve(queue: Queue, seconds: float) -> dict[str, Any]:
    """The processor time of the server while a page is open and every run goes on."""
    command = [sys.executable, "-m", "jobspec.cli", "serve", "--root", str(queue.paths.root)]
    jobs = queue.jobs()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{address}events") as events:
            told = events.readline()
            before, began, turn = _cpu_s(process.pid), time.monotonic(), 0
            while time.monotonic() - began < seconds:
                turn += 1
                for job in jobs:
                    _go_on(job, turn)
                for job in jobs[:2]:
                    urllib.request.urlopen(f"{address}run/{job.id}").read()
                while time.monotonic() - began < turn * INTERVAL_S:
                    told += events.read1(1 << 20)
            share = (_cpu_s(process.pid) - before) / (time.monotonic() - began)
        process.terminate()
    changed = told.count(b"event: runs")
    return {"running": RUNNING, "cpu_percent": round(100 * share, 2), "events": changed}


def _go_on(job: Job, turn: int) -> None:
    attempt = job.paths.attempt(1)
    told = Progress(phase="train", done=43 + turn, total=1000, unit="steps", eta_s=7421.0)
    fs.replace(attempt.progress, records.encode(told))
    with attempt.metrics.open("ab") as file:
        file.write(
            f'{{"phase":"train","seq":{1000 + turn},"step":{1000 + turn},"loss":0.4}}\n'.encode()
        )


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(queue: Queue, report: Path) -> dict[str, Any]:
    """How long a browser takes until the report can be used."""
    from tests.support.browser import browser

    command = [sys.executable, "-m", "jobspec.cli", "report", "-o", str(report)]
    subprocess.run([*command, "--root", str(queue.paths.root)], check=True, capture_output=True)
    took: list[float] = []
    with browser() as window:
        for _ in range(LOADS):
            window.open(report.as_uri())
            timing = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
            took.append(round(window.js(timing) / 1000, 2))
    return {"runs": RUNNING, "mb": round(report.stat().st_size / 1e6, 1), "load_s": took}


if __name__ == "__main__":
    main()
