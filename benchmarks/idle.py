"""What waiting costs: calls of an idle worker, and claims while many others wait.

    python -m benchmarks.idle                       10,000 finished, 1,000 pending, 200 waiting
    python -m benchmarks.idle --real --minutes 3    as long as that really takes

Calls are those of the worker's real loop, seen by strace, with notifications off as on a network
filesystem. Its clock is moved forward instead of waiting, so that an hour takes seconds. A call
touches the root if it names a path in it; reading an open directory and closing it is counted too,
beside, as "all".
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobspec.queue.queue import Queue
from jobspec.records.base import State
from jobspec.spec.schema import JobSpec, ModelSpec, ResourcesSpec
from worker.supervisor.idle import LONGEST_S

WARM_UP_MINUTES = 3
_PROCESSES, _BATCH = 4, 100
BEGIN, END = "/jobspec-idle-begin", "/jobspec-idle-end"
CALL = re.compile(r"^\d+ +(?P<name>\w+)\(")


@dataclass(frozen=True)
class Calls:
    """Calls a minute that touch the root: those that name a path in it, by name, and all."""

    naming: float
    all: float
    by_name: dict[str, float] = field(default_factory=dict[str, float])


def make_root(root: Path, finished: int, pending: int) -> Queue:
    """A queue with ended jobs and with jobs that ask for more GPUs than anybody has."""
    queue = Queue.create(root)
    for number in range(finished):
        name = f"949-20261122T124057123456Z-done-{number:010x}.1.json"
        (queue.paths.state(State.SUCCEEDED) / name).touch()
    for number in range(pending):
        spec = JobSpec(
            name=f"too-big-for-anybody-here-{number}",
            model=ModelSpec(name="none"),
            train=None,
            resources=ResourcesSpec(gpus=4096),
        )
        queue.enqueue(spec)
    return queue


def calls_per_minute(root: Path, minutes: float, *, real: bool = False) -> Calls:
    """Calls that one idle worker makes in a minute, once it has become used to waiting."""
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "trace"
        command = ["strace", "-f", "-y", "-qq", "-o", str(trace)]
        command += [sys.executable, "-m", "benchmarks.idle", "--worker", str(root)]
        command += ["--minutes", str(minutes), *(["--real"] if real else [])]
        subprocess.run(command, check=True, capture_output=not real)
        return _count(trace, root, minutes)


def missing() -> str | None:
    """Why calls can't be counted here; None if they can."""
    return None if shutil.which("strace") else "needs strace (Debian: apt-get install strace)"


def _count(trace: Path, root: Path, minutes: float) -> Calls:
    naming, every = Counter[str](), 0
    counting = False
    for line in trace.read_text(errors="replace").splitlines():
        if BEGIN in line or END in line:
            counting = BEGIN in line
        elif counting and str(root) in line and (call := CALL.match(line)):
            every += 1
            # `"` begins a path that is named; `<` one that strace -y tells of a descriptor.
            if f'"{root}' in line:
                naming[call["name"]] += 1
    by_name = {name: count / minutes for name, count in naming.most_common()}
    return Calls(naming=sum(naming.values()) / minutes, all=every / minutes, by_name=by_name)


class Clock:
    """Stands in for the module `time` where waiting is to take no time."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_s

    def sleep(self, seconds: float) -> None:
        self._ahead_s += seconds


def _idle(root: Path, minutes: float, *, real: bool) -> None:
    """Be an idle worker for the warm-up and `minutes` more."""
    from worker.host import preflight
    from worker.host.devices import WorkerDevices
    from worker.supervisor import idle
    from worker.supervisor import worker as loop

    clock: Any = time if real else Clock()
    for module in (loop, preflight, idle):
        vars(module)["time"] = clock
    queue = Queue(root, clock=clock.monotonic)
    worker = loop.Worker(queue, loop.WorkerOptions(poll=True), WorkerDevices(1))
    begin = clock.monotonic() + 60 * WARM_UP_MINUTES
    end, begun = begin + 60 * minutes, False
    send = worker.send_heartbeat

    def heartbeat_and_check(**shown: Any) -> None:
        nonlocal begun
        send(**shown)
        if clock.monotonic() >= begin and not begun:
            begun = True
            mark(BEGIN)
        if clock.monotonic() >= end:
            mark(END)
            worker.signals.stop = True

    worker.send_heartbeat = heartbeat_and_check
    worker.run()


def mark(name: str) -> None:
    with contextlib.suppress(OSError):
        Path(name).stat()


# --- claims while others wait


def claims_per_second(root: Path, seconds: float, waiting: int) -> float:
    """Claims and commits a second of one worker, while others poll the same queue."""
    queue, claims, spent_s = Queue.create(root), 0, 0.0
    with _waiting(root, waiting):
        while spent_s < seconds:
            for number in range(_BATCH):
                name = f"job-{claims + number}"
                queue.enqueue(JobSpec(name=name, model=ModelSpec(name="none"), train=None))
            started = time.monotonic()
            for _ in range(_BATCH):
                claim = queue.claim("one-0123456789abcdef")
                assert claim is not None
                claim.finish("succeeded")
            spent_s += time.monotonic() - started
            claims += _BATCH
    return claims / spent_s


@contextlib.contextmanager
def _waiting(root: Path, count: int) -> Iterator[None]:
    """Idle workers in a few processes, each of which polls independently."""
    children: list[int] = []
    ready, told = os.pipe()
    for part in range(min(_PROCESSES, count)):
        child = os.fork()
        if child == 0:
            workers = [f"w{number}-{number:016x}" for number in range(part, count, _PROCESSES)]
            _poll_for_ever(root, workers, told)
        children.append(child)
    try:
        for _ in children:
            os.read(ready, 1)
        yield
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(ready)
        os.close(told)


def _poll_for_ever(root: Path, workers: list[str], told: int) -> None:
    queues = [Queue(root) for _ in workers]
    for worker, queue in zip(workers, queues, strict=True):
        queue.heartbeat(worker)
    os.write(told, b"x")
    begin = time.monotonic()
    for turn in itertools.count():
        due = begin + turn * LONGEST_S / len(workers)
        time.sleep(max(0.0, due - time.monotonic()))
        queue, worker = queues[turn % len(workers)], workers[turn % len(workers)]
        queue.reap()
        queue.claim(worker, fits=lambda spec: False)
        queue.heartbeat(worker)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.idle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--finished", type=int, default=10_000)
    parser.add_argument("--pending", type=int, default=1_000)
    parser.add_argument("--waiting", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0, help="of claims, each way")
    parser.add_argument("--minutes", type=float, default=60.0, help="of idleness")
    parser.add_argument("--real", action="store_true", help="idle as long as that really takes")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        return _idle(given.worker, given.minutes, real=given.real)
    figures: dict[str, Any] = {"finished": given.finished, "pending": given.pending}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "idle"
        make_root(root, given.finished, given.pending)
        reason = missing()
        if reason is None:
            calls = calls_per_minute(root, given.minutes, real=given.real)
            figures["calls_per_idle_minute"] = asdict(calls)
        else:
            figures["calls_per_idle_minute"] = reason
        for waiting in (0, given.waiting):
            rate = claims_per_second(Path(scratch) / f"claims{waiting}", given.seconds, waiting)
            figures[f"claims_per_s_while_{waiting}_wait"] = round(rate)
    print(json.dumps(figures, indent=2))
    return None


if __name__ == "__main__":
    main()
