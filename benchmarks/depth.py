"""How claims and `status` grow with the number of pending jobs: `benchmarks.queues --depth`."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import status
from benchmarks.common import figure, table
from jobspec.queue import acquire, candidates
from jobspec.queue.heartbeat import new_worker_id
from jobspec.queue.queue import Queue
from jobspec.records.base import State
from jobspec.spec.schema import JobSpec, ModelSpec
from jobspec.storage import fs
from jobspec.storage.layout import Ticket

LOADED = (candidates, acquire)  # a queue loads them at its first claim, which is timed here
DEPTHS = (100, 1_000, 10_000, 100_000)
CLAIMS = 64


def print_growth(place: Path) -> None:
    """One queue that grows; `CLAIMS` real jobs of a higher priority are claimed at each depth."""
    queue, made, rows = Queue.create(place / "root"), 0, list[list[str]]()
    for deep in DEPTHS:
        _fill(queue, made, deep)
        made = deep
        for number in range(CLAIMS):
            spec = JobSpec(name=f"real-{deep}-{number}", model=ModelSpec(name="m"), train=None)
            queue.enqueue(spec, priority=60)
        times, calls = _claims(Queue(place / "root"))
        shown = status.measure(queue, 0, ())
        listing, rest = times[0], statistics.median(times)
        rows.append([
            f"{deep:,}", figure(listing * 1e3), figure(rest * 1e3),
            figure(1e3 * statistics.fmean(times)), f"{calls['all'] / CLAIMS:.0f}",
            f"{calls['listdir'] / CLAIMS:.2f}", figure(shown["cpu_s"][0]),
        ])  # fmt: skip
    head = ["pending", "first ms", "median ms", "mean ms", "calls a claim", "listings a claim",
            "status CPU s"]  # fmt: skip
    print(f"\n{CLAIMS} claims in a row of one process\n{table(head, rows)}")


def _fill(queue: Queue, first: int, last: int) -> None:
    """Names that wait and are never claimed here; `status` reads names alone of these too."""
    where = queue.paths.state(State.PENDING)
    for number in range(first, last):
        ticket = Ticket(949, f"20261122T{number:012d}Z", f"waits-{number:010x}")
        (where / ticket.name).touch()


def _claims(queue: Queue) -> tuple[list[float], Counter[str]]:
    worker, times = new_worker_id("bench"), list[float]()
    queue.heartbeat(worker)
    counting = _Counting()
    fs.os = counting  # type: ignore[assignment] # jobspec.storage.fs alone calls the system for the queue
    try:
        for _ in range(CLAIMS):
            began = time.monotonic()
            claim = queue.claim(worker)
            times.append(time.monotonic() - began)
            assert claim is not None and claim.job.startswith("real-")
    finally:
        fs.os = os
    return times, counting.counts


class _Counting:
    """`os`, counting the calls that reach the filesystem."""

    def __init__(self) -> None:
        self.counts = Counter[str]()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name in ("getpid", "geteuid", "urandom", "uname") or not callable(real):
            return real

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.counts[name] += 1
            self.counts["all"] += 1
            return real(*args, **kwargs)

        return counted
