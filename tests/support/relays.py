"""What the relay's tests share: jobs that write rows, and the real command beside them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil

from jobspec.queue.claim import Claim
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import End, Result
from jobspec.records.base import Reason
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs
from tests.support.commands import environment, jobspec
from tests.support.queues import claim_next, scores
from tests.support.specs import tuned_spec
from tests.support.wandb_server import Server

GRACE_S = 1.5  # above the second that the client waits between requests, and the kit's late counts
PATIENCE_S = 90.0
QUICK = ("--grace", str(GRACE_S), "--stall", "15")


class Writing:
    """An attempt that writes rows as the train phase does."""

    def __init__(self, queue: Queue, claim: Claim) -> None:
        self.queue, self.claim, self.seq = queue, claim, 0
        manifest = {"host": "node7", "code": {"commit": "c" * 40}, "packages": {"torch": "2.13"}}
        fs.publish(claim.dir.manifest, json.dumps(manifest).encode())

    @property
    def job(self) -> str:
        return self.claim.job

    def row(self, **values: Any) -> None:
        facts = {"attempt": self.claim.attempt, "seq": self.seq, "time": records.utc_now()}
        row = {**facts, "phase": "train", **values}
        fs.append(self.claim.dir.metrics, json.dumps(row).encode() + b"\n")
        self.seq += 1

    def steps(self, first: int, beyond: int) -> None:
        for step in range(first, beyond):
            compared = {"slowest_host": f"node{step % 2}", "slowest_host_share": 0.9}
            self.row(step=step, epoch=step / 100, loss=1 / (step + 1), **compared)

    def finish(self, metrics: dict[str, float | None], **train: float) -> None:
        fs.publish(self.claim.dir.done("train"), b"{}")
        self.claim.end(End(reason=Reason.SUCCEEDED, ended_at=records.utc_now()))
        result = Result(job=self.job, attempt=self.claim.attempt, metrics=metrics, train=train)
        self.claim.finish("succeeded", result)

    def requeue(self, worker: str = "next-0123456789abcdef") -> Writing:
        """Be preempted, and go on as the next attempt."""
        self.claim.requeue(Reason.PREEMPTED)
        return Writing(self.queue, claim_next(self.queue, worker))


def start(queue: Queue, rate: float = 1e-5, spec: JobSpec | None = None) -> Writing:
    """A job that runs, by a worker of its own."""
    job = queue.enqueue(spec or tuned_spec(rate=rate))
    worker = f"node-{len(queue.jobs())}-0123456789abcdef"
    claim = claim_next(queue, worker)
    assert claim.job == job.id
    return Writing(queue, claim)


def later(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def relay(
    queue: Queue, server: Server | None, *args: str, code: int | None = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """The command, once."""
    where = (server.environment if server is not None else {}) | env
    return jobspec("relay", *QUICK, *args, "--root", queue.paths.root, code=code, **where)


def json_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What a command printed with --json."""
    return json.loads(done.stdout)


class Watching:
    """`relay --watch` in a process of its own."""

    def __init__(self, queue: Queue, server: Server | None, *args: str) -> None:
        command = [sys.executable, "-m", "jobspec.cli", "relay", "--watch", "--interval", "0.1"]
        self._log = queue.paths.root.parent / f"relay-{time.monotonic_ns()}.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *QUICK, *args, "--root", str(queue.paths.root)],
                env=environment(**(server.environment if server is not None else {})),
                stderr=log,
                stdout=subprocess.DEVNULL,
            )

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """`kill -9`, of the relay alone: its client must see for itself."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> str:
        """SIGTERM, and all it said."""
        os.kill(self.process.pid, signal.SIGTERM)
        self.process.wait(PATIENCE_S)
        return self.said()

    def said(self) -> str:
        return self._log.read_text()

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait for a condition that this relay brings about."""
        ends = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < ends, f"it never came to that\n{self.said()}"
            time.sleep(0.02)


def write_while_relays_are_killed(queue: Queue, jobs: list[Writing], longest_s: float) -> None:
    """Jobs write rows while five relays run one after the other, each killed at a random time.

    The third loses its client first, and must have started another before it is killed.
    """

    def grown() -> bool:
        for job in jobs:
            if job.seq < 20_000:
                job.steps(job.seq, job.seq + random.randint(1, 40))
        return True

    for round_ in range(5):
        with Watching(queue, None) as watching:
            ends = time.monotonic() + random.uniform(0.3, longest_s)
            watching.until(lambda: grown() and time.monotonic() > ends)  # noqa: B023 - this round
            if round_ == 2:
                for process in psutil.Process(watching.pid).children():
                    process.kill()
                watching.until(lambda: len(psutil.Process(watching.pid).children()) > 0)
            watching.kill()
    for job in jobs:
        job.finish(scores(0.5, 0.25))
    relay(queue, None)


def lines(server: Server) -> int:
    """History lines of all runs."""
    with server.lock:
        return sum(len(run.lines) for run in server.runs.values())
