"""Starts workers as real processes, and reads what they have written."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from jobspec.queue.queue import Queue
from tests.support.paths import REPOSITORY
from tests.support.waiting import DEADLINE_S


@contextlib.contextmanager
def worker(queue: Queue, *options: str, probe: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process; killed at the end if it still runs. `probe`: it measures its node first."""
    log = queue.paths.root / f"worker-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", "worker", "--root", str(queue.paths.root), *options]
    command += [] if probe else ["--no-probe"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=stream, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        sys.stdout.write(log.read_text())  # pytest shows it if the test fails


def drain(queue: Queue, *options: str) -> None:
    """One worker until nothing is left to do."""
    with worker(queue, "--drain", *options) as process:
        assert process.wait(DEADLINE_S) == 0


def whole_lines(path: Path) -> list[bytes]:
    """The complete lines of a file that may be growing; none if there is no file yet."""
    try:
        *lines, _growing = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return lines


def rows(attempt: Path) -> list[dict[str, Any]]:
    """An attempt's metric rows; none where it has not begun."""
    return [msgspec.json.decode(line) for line in whole_lines(attempt / "metrics.jsonl")]


def losses(job_dir: Path) -> dict[int, float]:
    """The loss by step; where attempts overlap the later one's."""
    found: dict[int, float] = {}
    for attempt in sorted((job_dir / "attempts").iterdir(), key=lambda path: int(path.name)):
        found |= {row["step"]: row["loss"] for row in rows(attempt) if "loss" in row}
    return found


def ranks_of(attempt: Path) -> list[int]:
    """PIDs of the processes that work on an attempt, whatever their session or parent."""
    pids: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if str(attempt).encode() in (entry / "cmdline").read_bytes():
                    pids.append(int(entry.name))
    return pids


def signal_to(process: subprocess.Popen[bytes], name: str) -> None:
    os.kill(process.pid, getattr(signal, name))
