"""What a job costs that does nothing: from its enqueueing to its commit, beside other tools.

    python -m benchmarks.overhead                 20 jobs one by one, then 40 at once
    python -m benchmarks.overhead --many 1000     what docs/benchmarks.md records

- *ours, no phase*: the worker's real loop, idle and told by inotify of the new job: claim, attempt
  with its manifest and events, commit with all fsyncs; but the spec's one phase is left out.
- *ours, a process*: the phase is a process under the rank launcher, as always: Python that writes
  a file.
- *submitit*: its local executor runs a Python function; each job is a new Python process and
  pickles on the disk. `--many` runs as many at once as there are cores: it sets no limit itself.
- *HyperQueue, true*: server and one worker in this process; each task is a process, `true`.
- *HyperQueue, Python*: a task is a Python function; each is a new Python process.

One by one: each is submitted when the one before is known to be done; the time is from the
submitting call to that knowledge. Many: from the first submission until all are done. HyperQueue
and submitit fsync nothing of a job, and their jobs are gone with their server or submitter.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmarks.common import NOT_INSTALLED, figure, machine, table, version
from jobspec.queue.queue import Queue
from jobspec.records.base import State
from jobspec.spec.schema import JobSpec, ModelSpec

WAITED_S, LOOK_S = 600.0, 0.001


class Tool(Protocol):
    """Something that runs jobs of no work."""

    def __call__(self, count: int) -> None:
        """Submit `count` jobs and return when all are done."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--single", type=int, default=20)
    parser.add_argument("--many", type=int, default=40)
    parser.add_argument("--root", type=Path, help="a local disk [default: temporary]")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        return _work(given.worker, process=given.process)
    print(machine("jobspec", "submitit", "hyperqueue"), flush=True)
    tools: dict[str, Callable[[Path], contextlib.AbstractContextManager[Tool]]] = {
        "ours, no phase": partial(ours, process=False),
        "ours, a process": partial(ours, process=True),
        "submitit": submitit,
        "HyperQueue, true": partial(hyperqueue, python=False),
        "HyperQueue, Python": partial(hyperqueue, python=True),
    }
    rows = [_row(name, tool, given) for name, tool in tools.items()]
    head = ["", "one: median ms", "least", "most", f"{given.many:,}: s", "ms a job"]
    print(table(head, rows))
    return None


def _row(name: str, tool: Any, given: argparse.Namespace) -> list[str]:
    package = name.split(",")[0].lower()
    if package != "ours" and version(package) == NOT_INSTALLED:
        return [name, NOT_INSTALLED, *[""] * 4]
    with tempfile.TemporaryDirectory(dir=given.root) as place, tool(Path(place)) as run:
        run(1)  # what only the first one pays
        took = [_timed(run, 1) for _ in range(given.single)]
        many_s = _timed(run, given.many)
    single = [figure(1e3 * pick(took)) for pick in (statistics.median, min, max)]
    return [name, *single, figure(many_s), figure(1e3 * many_s / given.many)]


def _timed(run: Tool, count: int) -> float:
    began = time.monotonic()
    run(count)
    return time.monotonic() - began


@contextlib.contextmanager
def ours(place: Path, *, process: bool) -> Iterator[Tool]:
    """A queue with one idle worker."""
    queue, made = Queue.create(place / "root"), 0

    def run(count: int) -> None:
        nonlocal made
        tickets = []
        for _ in range(count):
            made += 1
            spec = JobSpec(name=f"job-{made}", model=ModelSpec(name="none"), train=None)
            tickets.append(queue.enqueue(spec).entry.ticket)
        done = queue.paths.state(State.SUCCEEDED)
        for ticket in tickets:
            _until((done / ticket.name).exists)

    command = [sys.executable, "-m", "benchmarks.overhead", "--worker", str(queue.paths.root)]
    command += ["--process"] if process else []
    with (place / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as worker:
        try:
            yield run
        finally:
            worker.kill()


def _work(root: Path, *, process: bool) -> None:
    """The worker's own loop; the phase is nothing, or a process of no work."""
    from worker import phases
    from worker.host.devices import visible_devices
    from worker.launch import command
    from worker.supervisor import worker

    if process:
        command._rank_command = _nothing  # type: ignore[assignment] # what runs under the rank launcher
    else:
        phases.of = lambda spec: ()
    worker.Worker(Queue(root), worker.WorkerOptions(), visible_devices(1)).run()


def _nothing(module: str, attempt_dir: Path) -> Sequence[str]:
    from jobspec.storage.layout import AttemptPaths
    from worker.phases import PHASES

    done = AttemptPaths(attempt_dir).done(next(p.name for p in PHASES if p.module == module))
    return [sys.executable, "-S", "-c", f"open({str(done)!r}, 'w').write('{{}}')"]


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAITED_S
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError("the worker did not commit")
        time.sleep(LOOK_S)  # a look at one name, beside a worker that notifies nobody


@contextlib.contextmanager
def submitit(place: Path) -> Iterator[Tool]:
    """submitit's local executor."""
    from submitit import LocalExecutor

    executor = LocalExecutor(place / "submitit")
    executor.update_parameters(timeout_min=10)
    at_once = len(os.sched_getaffinity(0))

    def run(count: int) -> None:
        running: list[Any] = []
        for _ in range(count):
            running.append(executor.submit(nothing))
            if len(running) >= at_once:
                running.pop(0).result()
        for job in running:
            job.result()

    yield run


@contextlib.contextmanager
def hyperqueue(place: Path, *, python: bool) -> Iterator[Tool]:
    """HyperQueue's server and one worker, as its Python package starts them."""
    from hyperqueue import Client, Job, LocalCluster
    from hyperqueue.cluster import WorkerConfig
    from hyperqueue.task.function import PythonEnv

    with contextlib.ExitStack() as left:
        with _unheard():  # its server prints a table about itself into ours
            # It says Path and takes a string alone.
            cluster = left.enter_context(LocalCluster(str(place / "hq")))  # type: ignore[arg-type]
            cluster.start_worker(WorkerConfig())
        client: Client = cluster.client(python_env=PythonEnv(python_bin=sys.executable))

        def run(count: int) -> None:
            job = Job(default_workdir=place)
            for _ in range(count):
                if python:
                    job.function(nothing, stdout=None, stderr=None)
                else:
                    job.program(["true"], stdout=None, stderr=None)
            with Path(os.devnull).open("w") as quiet, contextlib.redirect_stderr(quiet):
                client.wait_for_jobs([client.submit(job)])

        yield run


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Lose what is written to standard output, by code that is not Python's too."""
    sys.stdout.flush()
    kept = os.dup(1)
    with Path(os.devnull).open("wb") as quiet:
        os.dup2(quiet.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def nothing() -> None:
    """The work."""


if __name__ == "__main__":
    main()
