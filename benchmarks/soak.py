"""Torment a queue: many workers, jobs of no work, random `kill -9` and SIGSTOP; then count.

    python -m benchmarks.soak --workers 200 --jobs 10000 --minutes 10 --lease-s 20

With `--faults all` it also deletes directories of jobs, lets the workers' calls on the root fail as
on a network filesystem (ESTALE, EIO …) and on a full disk, and with `--group` the workers are two
users with different umasks. `--moosefs` starts that filesystem, with two mounts.

Worker processes claim, send heartbeats, reap, wait `--work-s` on average, write a result and
commit. Sometimes they give a job back, and with `--work-s` every twentieth job takes two leases.
Another process kills and replaces workers, or suspends them for up to two and a half leases, so
that some continue after their jobs were reaped. At the end no job may be lost (no entry), doubled
(two entries or commits) or stuck (no progress although jobs are left), and no job may have been
taken from a worker that kept sending heartbeats. Workers log their commits outside the root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import soak_faults
from benchmarks.soak_workers import BEATS_A_LEASE, Crowd, Plan
from jobspec.queue.entries import list_state, parse
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import Result
from jobspec.records.base import FINAL, State
from jobspec.spec.schema import JobSpec, ModelSpec
from jobspec.storage import fs
from tests.support import moosefs

GRACE_LEASES = 15.0
POLL_S = (2.0, 30.0)  # an idle worker's first and longest wait


@dataclass
class Figures:
    """What came of it. `lost`, `doubled`, `stuck` and `fenced_alive` must be 0."""

    workers: int = 0
    jobs: int = 0
    lease_s: float = 0.0
    seconds: float = 0.0
    enqueued_per_s: float = 0.0
    claims: int = 0
    claims_per_s: float = 0.0
    commits: int = 0
    lost: int = 0
    doubled: int = 0
    stuck: int = 0
    failed: int = 0
    requeues: int = 0
    fenced: int = 0
    fenced_alive: int = 0
    kills: int = 0
    stops: int = 0
    deletes: int = 0
    outages: int = 0
    full: int = 0
    failed_calls: int = 0
    results_deleted: int = 0
    restored: int = 0
    calls_per_idle_minute: float = 0.0
    wrong: list[str] = field(default_factory=list[str])

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.stuck or self.fenced_alive or self.wrong)


def run(plan: Plan, say: Callable[[str], None] = lambda text: None) -> Figures:
    """Carry out a plan. The roots' directories must exist or be creatable; use fresh ones."""
    figures = Figures(workers=plan.workers, jobs=plan.jobs, lease_s=plan.lease_s)
    if plan.group:
        soak_faults.make_group_root(plan.roots[0])
    queue = Queue.create(
        plan.roots[0], heartbeat_s=plan.lease_s / BEATS_A_LEASE, lease_s=plan.lease_s
    )
    jobs = _enqueue_all(queue, plan, figures)
    say(f"{len(jobs)} jobs enqueued, {figures.enqueued_per_s:.0f}/s")
    with tempfile.TemporaryDirectory() as ledgers:
        _torment(queue, plan, figures, Path(ledgers), say)
        figures.restored = len(queue.fsck().restored)
        _count(queue, jobs, figures, Path(ledgers))
    figures.calls_per_idle_minute = calls_per_idle_minute()
    return figures


def _enqueue_all(queue: Queue, plan: Plan, figures: Figures) -> set[str]:
    started = time.monotonic()
    jobs = {
        queue.enqueue(JobSpec(name=f"soak-{n:05d}", model=ModelSpec(name="none"), train=None)).id
        for n in range(plan.jobs)
    }
    figures.enqueued_per_s = plan.jobs / (time.monotonic() - started)
    return jobs


def _torment(
    queue: Queue, plan: Plan, figures: Figures, ledgers: Path, say: Callable[[str], None]
) -> None:
    crowd = Crowd(plan, ledgers)
    started = time.monotonic()
    next_word = started + 10
    try:
        while (now := time.monotonic()) < started + plan.seconds:
            if not _left(queue):
                break
            crowd.one_fault()
            crowd.wait(random.expovariate(plan.faults_per_s))
            if now > next_word:
                faults = crowd.made.total()
                say(f"{now - started:.0f} s: {_left(queue)} jobs left, {faults} faults")
                next_word = now + 10
        crowd.wake_all()
        _let_finish(queue, plan, crowd)
        figures.kills, figures.stops = crowd.made["kill"], crowd.made["stop"]
        figures.deletes, figures.outages = crowd.made["delete"], crowd.made["outage"]
        figures.full, figures.failed_calls = crowd.made["full"], crowd.weather.failed
    finally:
        crowd.end()
    figures.seconds = time.monotonic() - started


def _let_finish(queue: Queue, plan: Plan, crowd: Crowd) -> None:
    """Without faults, until nothing is left or nothing has moved for many leases."""
    left, deadline = -1, 0.0
    while (now_left := _left(queue)) > 0:
        now = time.monotonic()
        if now_left != left:
            left, deadline = now_left, now + GRACE_LEASES * plan.lease_s
        elif now > deadline:
            return
        crowd.wait(plan.lease_s / BEATS_A_LEASE)


def _left(queue: Queue) -> int:
    return sum(job.state not in FINAL for job in queue.jobs())


def _count(queue: Queue, jobs: set[str], figures: Figures, ledgers: Path) -> None:
    rows = [line.split() for path in ledgers.iterdir() for line in path.read_text().splitlines()]
    noted = Counter(row[0] for row in rows)
    figures.claims, figures.commits = noted["claim"], noted["commit"]
    figures.fenced, figures.fenced_alive = noted["fenced"], noted["fenced-alive"]
    figures.claims_per_s = figures.claims / figures.seconds
    commits = Counter(row[1] for row in rows if row[0] == "commit")
    found: dict[str, list[tuple[State, int]]] = {}
    for state in State:
        for name in list_state(queue.paths, state):
            entry = parse(state, name)
            if entry is not None:
                found.setdefault(entry.ticket.job, []).append((state, entry.ticket.attempt))
    figures.lost = len(jobs - found.keys())
    doubled = {job for job, entries in found.items() if len(entries) > 1}
    figures.doubled = len(doubled | {job for job, count in commits.items() if count > 1})
    last = [entries[-1] for entries in found.values()]
    figures.stuck = sum(state not in FINAL for state, _ in last)
    figures.failed = sum(state is State.FAILED for state, _ in last)
    figures.requeues = sum(attempt - 1 for _, attempt in last)
    committed = {row[1]: int(row[2]) for row in rows if row[0] == "commit"}
    deleted = {row[1] for row in rows if row[0] == "deleted"}
    wrong = dict(_wrong_results(queue, committed))
    figures.results_deleted = len(deleted & wrong.keys())
    figures.wrong = [text for job, text in wrong.items() if job not in deleted]


def _wrong_results(queue: Queue, commits: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Succeeded jobs whose result is not whole, or not that of the attempt that committed."""
    for job in queue.jobs(State.SUCCEEDED):
        result = records.read(job.paths.attempt(job.attempt).result, Result)
        if result is None or result.metrics != {"attempt": float(job.attempt)}:
            yield job.id, f"{job.id}: no whole result in attempt {job.attempt}"
        if commits.get(job.id, job.attempt) != job.attempt:
            yield job.id, f"{job.id}: committed by attempt {commits[job.id]}, shows {job.attempt}"
    for job in commits.keys() - {job.id for job in queue.jobs(State.SUCCEEDED)}:
        yield job, f"{job}: committed, but not succeeded"


def calls_per_idle_minute(finished: int = 10_000, pending: int = 1_000) -> float:
    """Filesystem calls that one idle worker makes in a minute, with jobs that it can't take."""
    with tempfile.TemporaryDirectory() as scratch:
        queue = Queue.create(Path(scratch) / "root")
        for number in range(finished):
            name = f"949-20261122T124057123456Z-done-{number:010x}.1.json"
            (queue.paths.state(State.SUCCEEDED) / name).touch()
        spec = JobSpec(name="big", model=ModelSpec(name="none"), train=None)
        source = queue.enqueue(spec)
        entry = next(queue.paths.state(State.PENDING).iterdir())
        for number in range(1, pending):
            os.link(entry, entry.with_name(entry.name.replace("949-2026", f"949-{2026 + number}")))
        assert source.state is State.PENDING
        queue.heartbeat("idle")
        queue.claim("idle", fits=lambda spec: False)
        with _counted() as count:
            for _ in range(int(60 / POLL_S[1])):
                queue.claim("idle", fits=lambda spec: False)
                queue.reap()
            for _ in range(int(60 / queue.format.heartbeat_s)):
                queue.heartbeat("idle")
        return float(count())


@contextlib.contextmanager
def _counted() -> Iterator[Callable[[], int]]:
    """Count the calls by which `jobspec.storage.fs` touches the root."""
    touching = {"open", "rename", "unlink", "mkdir", "lstat", "stat", "listdir", "symlink", "chmod"}
    made = 0

    class Counting:
        def __getattr__(self, name: str) -> Any:
            nonlocal made
            made += name in touching
            return getattr(os, name)

    fs.os = Counting()  # type: ignore[assignment] # stands in for the module
    try:
        yield lambda: made
    finally:
        fs.os = os


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long faults are injected")
    parser.add_argument("--lease-s", type=float, default=10.0)
    parser.add_argument("--work-s", type=float, default=0.0, help="mean seconds a job waits")
    parser.add_argument("--faults-per-s", type=float, default=1.0)
    parser.add_argument("--root", type=Path, action="append", help="several: mounts of one root")
    parser.add_argument("--moosefs", action="store_true", help="start it, and use two mounts of it")
    parser.add_argument(
        "--faults",
        default="kill,stop",
        help=f"which ones, by commas, or all: {', '.join(soak_faults.KINDS)}",
    )
    parser.add_argument(
        "--group", action="store_true", help="workers of two users with different umasks; as root"
    )
    given = parser.parse_args()
    kinds = soak_faults.KINDS if given.faults == "all" else given.faults.split(",")
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        base.chmod(0o755)
        roots = given.root or [base / "root"]
        if given.moosefs:
            shared = stack.enter_context(moosefs.running(base))
            roots = [shared.a / "root", shared.b / "root"]
        plan = Plan(
            roots=roots,
            faults=kinds,
            group=given.group,
            workers=given.workers,
            jobs=given.jobs,
            seconds=60 * given.minutes,
            lease_s=given.lease_s,
            work_s=given.work_s,
            faults_per_s=given.faults_per_s,
        )
        figures = run(plan, say=lambda text: print(text, file=sys.stderr))
    print(json.dumps(asdict(figures), indent=2))
    sys.exit(0 if figures.good else 1)


if __name__ == "__main__":
    main()
