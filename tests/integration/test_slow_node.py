"""A real training whose ranks are stopped most of the time is noticed by its worker."""

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

from jobspec.queue.queue import Queue
from jobspec.records.attempt import AttemptEvent
from jobspec.records.base import State
from tests.support.paths import REPOSITORY
from tests.support.queues import queue_at
from tests.support.specs import tiny_spec
from tests.support.waiting import until
from tests.support.workers import ranks_of, rows
from worker.host import identity

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
def slowed(attempt: Path) -> Iterator[None]:
    """Stop the ranks of an attempt for four fifths of the time, as a throttled device does."""
    done, pids = threading.Event(), ranks_of(attempt)

    def stop_and_continue() -> None:
        while not done.is_set():
            for sig, seconds in ((signal.SIGSTOP, 0.4), (signal.SIGCONT, 0.1)):
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


def test_a_training_that_slows_down_is_named_with_its_host(tiny: Path, queue: Queue) -> None:
    small: dict[str, Any] = {"global_batch_size": 1, "per_device_train_batch_size": 1}
    spec = tiny_spec(tiny, num_train_epochs=900.0, checkpoint_interval_s=1000.0, **small)
    job = queue.enqueue(spec)
    attempt = job.paths.attempt(1)

    def slow_event() -> AttemptEvent | None:
        """The event of a slowdown that lasts."""
        lines = attempt.events.read_bytes().splitlines()
        events = [msgspec.json.decode(line, type=AttemptEvent) for line in lines]
        return events[-1] if events[-1].event == "slow" else None

    def has_trained() -> bool:
        took = [row["step_s"] for row in rows(attempt.dir) if "step_s" in row]
        return len(took) > 60 and sum(took) > 12 and slow_event() is None

    command = [sys.executable, "-c", WATCHFUL, "--root", str(queue.paths.root), "--no-probe"]
    process = subprocess.Popen([*command, "--devices", "1"], cwd=REPOSITORY)
    try:
        until(has_trained, "some seconds of steps")
        with slowed(attempt.dir):
            event = until(slow_event, "the worker to notice")
        assert str(event.message).startswith(f"{identity.short_host()} became slow: ")
        process.terminate()
        until(lambda: queue.job(job.id).state is State.PENDING, "the stop")
    finally:
        process.kill()
        process.wait()
