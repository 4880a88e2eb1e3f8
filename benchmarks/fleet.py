"""What a fleet asks of the root: `python -m benchmarks.fleet [--workers 1,10,100,1000]`.

- Calls a minute of one worker in a fleet, idle and with a job. Its real loop and attempt run,
  without the processes of phases, and strace counts (as in benchmarks/idle.py; the clock is moved
  forward, notifications are off). The root holds the others' heartbeats, records and claims.
  "naming" calls contain a path; reads and closes of open files are not counted there.
- Claims and commits a second of a fleet of workers, in a few processes, that empty one queue.
- The herd: all workers see one new job, or as many jobs as there are workers. All have listed
  and read before anybody tries (the worst case), or all list and claim at once. Threads of one
  process, so seconds are upper bounds; calls are counted where `jobspec.storage.fs` calls the
  system.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import idle
from benchmarks.common import figure, machine, table
from jobspec.queue import acquire
from jobspec.queue.queue import Queue
from jobspec.records.base import State
from jobspec.records.worker import WorkerRecord
from jobspec.spec.schema import JobSpec, ModelSpec
from jobspec.storage import fs

MINUTES = 30.0
PROCESSES = 4
_PATIENCE_S = 60.0
_FORK = multiprocessing.get_context("fork")
KINDS = {
    "openat": "open",
    "getdents64": "list",
    "newfstatat": "stat",
    "statx": "stat",
    "lstat": "stat",
    "stat": "stat",
    "rename": "rename",
    "fsync": "fsync",
    "mkdir": "mkdir",
}
SHOWN = ("list", "open", "stat", "rename", "fsync")
# What `jobspec.storage.fs` calls by these names; two of them list or stat under another kind's
# name.
FS_KINDS = {"listdir": "list", "lstat": "stat", "stat": "stat"} | {
    name: name for name in ("open", "rename", "fsync", "mkdir")
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", default="1,10,100,1000")
    parser.add_argument("--jobs", type=int, default=1000, help="of claims a second")
    parser.add_argument("--busy", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.busy is not None:
        return _busy(Path(args.busy[0]), float(args.busy[1]))
    print(machine())
    sizes = [int(size) for size in args.workers.split(",")]
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as name:
        place = Path(name)
        _print_calls(place, sizes)
        _print_claims(place, sizes, args.jobs)
        _print_herd(place, sizes)
    return None


# --- calls a minute


def _print_calls(place: Path, sizes: list[int]) -> None:
    if (reason := idle.missing()) is not None:
        return print(f"\ncalls a minute: {reason}")
    rows: list[list[str]] = []
    for size in sizes:
        for state, count in (("idle", idle_calls), ("busy", busy_calls)):
            calls = count(place / f"{state}{size}", size)
            kinds = [figure(calls[kind]) for kind in SHOWN]
            rows.append([f"{size} {state}", figure(calls["naming"]), *kinds])
            rows[-1].append(f"{calls['naming'] * size:,.0f}")
    head = ["workers", "naming", *SHOWN, "of all workers"]
    return print(f"\ncalls a minute of one worker\n{table(head, rows)}")


def idle_calls(root: Path, others: int) -> Counter[str]:
    """Calls a minute of an idle worker, by kind, among `others` idle workers."""
    queue = Queue.create(root)
    _live(queue, others - 1)
    return _traced(root, "benchmarks.idle", "--worker", str(root), "--minutes", str(MINUTES))


def busy_calls(root: Path, others: int) -> Counter[str]:
    """Calls a minute of a worker with a job, by kind, among `others` workers with jobs."""
    queue = Queue.create(root)
    for number in range(others - 1):
        queue.enqueue(_spec(number))
    _live(queue, others - 1, claim=True)
    queue.enqueue(_spec(others))
    return _traced(root, "benchmarks.fleet", "--busy", str(root), str(MINUTES))


def _live(queue: Queue, count: int, *, claim: bool = False) -> None:
    for number in range(count):
        worker = f"node{number}-{number:016x}"
        queue.heartbeat(worker, WorkerRecord(worker=worker, host=f"node{number}"))
        if claim:
            claimed = queue.claim(worker)
            assert claimed is not None
            queue.heartbeat(worker, job=claimed.job)


def _traced(root: Path, module: str, *arguments: str) -> Counter[str]:
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "trace"
        command = ["strace", "-f", "-y", "-qq", "-o", str(trace), sys.executable, "-m", module]
        subprocess.run([*command, *arguments], check=True, capture_output=True)
        return _count(trace, root)


def _count(trace: Path, root: Path) -> Counter[str]:
    found, counting = Counter[str](), False
    for line in trace.read_text(errors="replace").splitlines():
        if idle.BEGIN in line or idle.END in line:
            counting = idle.BEGIN in line
        elif counting and str(root) in line and (call := idle.CALL.match(line)):
            found["naming"] += f'"{root}' in line
            found[KINDS.get(call["name"], call["name"])] += 1
    return Counter({kind: count / MINUTES for kind, count in found.items()})


def _busy(root: Path, minutes: float) -> None:
    """Be a worker with one job, whose only phase lasts for the warm-up and `minutes` more."""
    from worker.host import preflight
    from worker.host.devices import WorkerDevices
    from worker.supervisor import attempt, worker
    from worker.supervisor import idle as waiting

    clock: Any = idle.Clock()
    for module in (attempt, worker, preflight, waiting):
        vars(module)["time"] = clock
    begin = clock.monotonic() + 60 * idle.WARM_UP_MINUTES
    end, marked = begin + 60 * minutes, list[str]()

    class Phase:
        """Replaces the process of the phase: time passes while the worker waits for it."""

        wall_s = 0.0

        def __init__(self, command: list[str], env: Any, log: Path) -> None:
            self._done = log.parent

        def wait(self, timeout_s: float) -> int | None:
            clock.sleep(timeout_s)
            if clock.monotonic() >= begin and not marked:
                marked.append(idle.BEGIN)
                idle.mark(idle.BEGIN)
            if clock.monotonic() < end:
                return None
            idle.mark(idle.END)
            raise SystemExit

        def kill(self) -> None:
            """Nothing runs."""

    attempt.Child = Phase
    queue = Queue(root, clock=clock.monotonic)
    worker.Worker(queue, worker.WorkerOptions(poll=True), WorkerDevices(1)).run()


# --- claims a second


def _print_claims(place: Path, sizes: list[int], jobs: int) -> None:
    rows: list[list[str]] = []
    for size in sizes:
        queue = Queue.create(place / f"claims{size}")
        started = time.monotonic()
        for number in range(jobs):
            queue.enqueue(_spec(number))
        enqueued_s = time.monotonic() - started
        started = time.monotonic()
        said = _everywhere(size, partial(_empty, queue.paths.root))
        seconds = time.monotonic() - started
        done = len(queue.jobs(State.SUCCEEDED))
        assert done == jobs, (done, jobs)
        tried = sum(found["tried"] for found in said)
        rows.append([str(size), figure(jobs / enqueued_s), figure(jobs / seconds)])
        rows[-1].append(figure(tried / jobs))
    head = ["workers", "enqueued/s", "claimed and committed/s", "renames tried a claim"]
    print(f"\n{jobs} jobs of no work, {PROCESSES} processes at most\n{table(head, rows)}")


def _empty(root: Path, workers: list[str]) -> dict[str, float]:
    """Let these workers take turns until nothing is pending."""
    queues = {worker: Queue(root) for worker in workers}
    with _tried() as tried:
        while True:
            claims = [queue.claim(worker) for worker, queue in queues.items()]
            for claim in claims:
                if claim is not None:
                    claim.finish("succeeded")
            if not any(claims):
                return {"tried": tried()}


# --- the herd


def _print_herd(place: Path, sizes: list[int]) -> None:
    rows: list[list[str]] = []
    for size in sizes:
        for jobs in sorted({1, size}):
            for met in (True, False):
                root = place / f"herd{size}-{jobs}-{met}"
                found = herd(root, size, jobs, met=met)
                how = "all have listed" if met else "at once"
                rows.append([f"{size}, {jobs} new, {how}", figure(found["first_s"])])
                rows[-1] += [figure(found["last_s"]), f"{found['tried']:,.0f}"]
                rows[-1] += [f"{found[kind]:,.0f}" for kind in SHOWN]
    head = ["workers", "first s", "last s", "tried", *SHOWN]
    print(f"\nthe herd: seconds to the first and the last claim, calls of all\n{table(head, rows)}")


def herd(root: Path, size: int, jobs: int, *, met: bool) -> dict[str, float]:
    """Let all workers see new jobs at once.

    Args:
        met: nobody tries to claim before all have listed and read what is pending.

    Returns:
        Calls by kind; `tried`: renames that were to claim; `first_s`, `last_s`: seconds until the
        first and the last of the claims was good.
    """
    queue = Queue.create(root)
    for number in range(jobs):
        queue.enqueue(_spec(number))
    workers = {f"w{number}-{number:016x}": Queue(root) for number in range(size)}
    ready, listed = (threading.Barrier(size, timeout=_PATIENCE_S) for _ in range(2))
    claimed, started = list[float](), list[float]()

    def look(worker: str) -> None:
        waits = [listed] if met else []

        def fits(spec: JobSpec) -> bool:
            if waits:
                waits.pop().wait()
                started.append(time.monotonic())
            return True

        ready.wait()
        if not met:
            started.append(time.monotonic())
        if workers[worker].claim(worker, fits) is not None:
            claimed.append(time.monotonic())

    with _counted() as calls, _tried() as tried:
        threads = [threading.Thread(target=look, args=(worker,)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(claimed) == jobs, (len(claimed), jobs)
    times = {"first_s": min(claimed) - min(started), "last_s": max(claimed) - min(started)}
    return {**dict.fromkeys(SHOWN, 0), **calls, "tried": tried(), **times}


def _everywhere(size: int, act: Callable[[list[str]], dict[str, float]]) -> list[dict[str, float]]:
    """Let workers act, spread over a few processes; what each process returned."""
    count = min(PROCESSES, size)
    parts = [[f"w{n}-{n:016x}" for n in range(part, size, count)] for part in range(count)]
    with ProcessPoolExecutor(count, mp_context=_FORK) as pool:
        return list(pool.map(act, parts))


@contextlib.contextmanager
def _counted() -> Iterator[Counter[str]]:
    """Count, by kind, the calls that `jobspec.storage.fs` makes."""
    found = Counter[str]()

    class Counting:
        def __getattr__(self, name: str) -> Any:
            if name in FS_KINDS:
                found[FS_KINDS[name]] += 1
            return getattr(os, name)

    fs.os = Counting()  # type: ignore[assignment] # stands in for the module
    try:
        yield found
    finally:
        fs.os = os


@contextlib.contextmanager
def _tried() -> Iterator[Callable[[], int]]:
    """Count the renames by which workers try to claim."""
    move, tried = acquire.move_to_running, list[None]()

    def counting(*args: Any) -> bool:
        tried.append(None)
        return move(*args)

    acquire.move_to_running = counting
    try:
        yield lambda: len(tried)
    finally:
        acquire.move_to_running = move


def _spec(number: int) -> JobSpec:
    return JobSpec(name=f"job-{number}", model=ModelSpec(name="none"), train=None)


if __name__ == "__main__":
    main()
