"""Real trainings whose ranks are stopped most of the time are noticed, and the node is named."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.queue.queue import Job, Queue
from jobspec.records.attempt import AttemptEvent
from jobspec.records.base import State
from tests.support.nodes import launcher
from tests.support.paths import REPOSITORY
from tests.support.queues import queue_at
from tests.support.specs import tiny_spec
from tests.support.waiting import until
from tests.support.workers import ranks_of, rows, whole_lines
from worker.host import identity
from worker.supervisor.speed_watch import StepSpeed, slow_host, training_steps

pytestmark = pytest.mark.deepspeed

# A worker that looks often, and judges a few seconds.
WATCHFUL = """
from worker.__main__ import main
from worker.supervisor import speed_watch
speed_watch.EVERY_S, speed_watch._LEAST_S = 0.2, 4.0
main()
"""


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return queue_at(tmp_path, lease_s=60.0, heartbeat_s=0.5)


@contextlib.contextmanager
def slowed(pids: list[int], stopped_s: float, running_s: float) -> Iterator[None]:
    """Stop processes most of the time, as a throttled device does."""
    done = threading.Event()

    def stop_and_continue() -> None:
        while not done.is_set():
            for sig, seconds in ((signal.SIGSTOP, stopped_s), (signal.SIGCONT, running_s)):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, sig)
                time.sleep(seconds)

    thread = threading.Thread(target=stop_and_continue)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def training(tiny: Path, queue: Queue, *options: str, **settings: Any) -> Iterator[Job]:
    """A worker that trains for some minutes, stopped at the end."""
    spec = tiny_spec(tiny, num_train_epochs=900.0, checkpoint_interval_s=1000.0, **settings)
    job = queue.enqueue(spec)
    command = [sys.executable, "-c", WATCHFUL, "--root", str(queue.paths.root), "--no-probe"]
    process = subprocess.Popen([*command, "--devices", "1", *options], cwd=REPOSITORY)
    try:
        yield job
        process.terminate()
        until(lambda: queue.job(job.id).state is State.PENDING, "the stop")
    finally:
        process.kill()
        process.wait()


def events_of(job: Job) -> list[AttemptEvent]:
    """What happened in its attempt."""
    lines = whole_lines(job.paths.attempt(1).events)
    return [msgspec.json.decode(line, type=AttemptEvent) for line in lines]


def test_a_training_that_slows_down_is_named_with_its_host(tiny: Path, queue: Queue) -> None:
    one_row: dict[str, Any] = {"global_batch_size": 1, "per_device_train_batch_size": 1}
    with training(tiny, queue, **one_row) as job:

        def slow_event() -> AttemptEvent | None:
            """The event of a slowdown that lasts."""
            newest = events_of(job)[-1]
            return newest if newest.event == "slow" else None

        def has_trained() -> bool:
            took = [row["step_s"] for row in rows(job.paths.attempt(1).dir) if "step_s" in row]
            return len(took) > 60 and sum(took) > 12 and slow_event() is None

        until(has_trained, "some seconds of steps")
        with slowed(ranks_of(job.paths.attempt(1).dir), 0.04, 0.01):  # within a step
            event = until(slow_event, "the worker to notice")
        assert event.host == identity.short_host()
        assert str(event.message).startswith(f"{event.host} became slow: ")


def two_hosts(directory: Path) -> str:
    """A launcher of "nodes" named node0 and node1."""
    user = ["--user", "--map-root-user"] if os.geteuid() else []
    name = """sh -c 'hostname node$SLURM_PROCID && exec "$@"' sh"""
    return launcher(directory, each=" ".join(["unshare", *user, "--uts", name]))


def rank(attempt: Path, number: int) -> list[int]:
    """The process of one rank."""
    wanted = f"RANK={number}".encode()
    variables = {pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in ranks_of(attempt)}
    return [pid for pid, found in variables.items() if wanted in found.split(b"\0")]


def test_the_slow_one_of_two_nodes_is_named(tiny: Path, tmp_path: Path, queue: Queue) -> None:
    four_rows: dict[str, Any] = {"global_batch_size": 4, "per_device_train_batch_size": 1}
    nodes = ("--nodes", "2", "--launcher", two_hosts(tmp_path))
    with training(tiny, queue, *nodes, **four_rows) as job:
        attempt = job.paths.attempt(1)

        def steps() -> list[StepSpeed]:
            return list(training_steps(whole_lines(attempt.metrics)))

        equal = until(lambda: found if len(found := steps()) > 45 else None, "some steps")
        assert {step.slowest_host for step in equal} <= {"node0", "node1"}
        # Not of the events: other processes do make a node slow for the seconds judged there.
        assert slow_host(equal, 0.75) is None
        (second,) = rank(attempt.dir, 1)
        with slowed([second], 0.3, 0.015):
            named = until(
                lambda: [each for each in events_of(job) if each.host == "node1"], "its name"
            )
        said = str(named[-1].message)
        assert said.startswith("node1 ") and "its forward passes run at " in said
