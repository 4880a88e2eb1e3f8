"""What waiting costs the filesystem: system calls of a real worker's loop, counted by strace."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fleet, idle
from jobspec.queue.queue import Queue
from tests.support.faulty_os import CALLS, replaced_os
from tests.support.specs import score_spec

LIMIT = 30
needs_strace = pytest.mark.skipif(idle.missing() is not None, reason=idle.missing() or "")


@needs_strace
def test_an_idle_worker_makes_few_calls_however_many_jobs_there_are(tmp_path: Path) -> None:
    """10,000 finished jobs and 1,000 pending ones that ask for more than it has."""
    root = tmp_path / "root"
    idle.make_root(root, finished=10_000, pending=1_000)
    calls = idle.calls_per_minute(root, minutes=60)
    assert 6 < calls.naming <= LIMIT, (
        calls
    )  # heartbeats are counted: without calls the test would prove nothing
    assert calls.by_name["rename"] >= 4  # a heartbeat every 15 s
    assert calls.by_name["openat"] >= 6  # and two looks at pending, running and workers
    assert calls.all <= 2 * LIMIT, calls


@needs_strace
def test_marks_of_others_cost_an_idle_worker_nothing(tmp_path: Path) -> None:
    queue = idle.make_root(tmp_path / "root", finished=0, pending=20)
    alone = idle.calls_per_minute(queue.paths.root, minutes=30)
    for number in range(50):
        queue.quarantine(f"gpu{number}", "dead", ttl_s=1e6)
    queue.hold("maintenance")
    crowded = idle.calls_per_minute(queue.paths.root, minutes=30)
    assert crowded.naming <= alone.naming + 1, (alone, crowded)


def calls_of(act: Callable[[], object]) -> Counter[str]:
    """The filesystem calls that something makes through `jobspec.storage.fs`."""
    made = Counter[str]()

    class Counting:
        def __getattr__(self, name: str) -> Any:
            made[name] += name in CALLS
            return getattr(os, name)

    with replaced_os(Counting()):
        act()
    return made


def test_a_claim_costs_the_same_whether_two_hundred_wait_or_nobody(
    tmp_path: Path, queue: Queue
) -> None:
    for number in range(3):
        queue.enqueue(score_spec(f"job{number}"))

    def claim() -> None:
        claimed = queue.claim("one-0123456789abcdef")
        assert claimed is not None
        claimed.finish("succeeded")

    calls_of(claim)  # it reads what it will remember
    alone = calls_of(claim)
    waiting = [Queue(tmp_path / "root") for _ in range(200)]
    for number, other in enumerate(waiting):
        other.heartbeat(f"w-{number:016x}")
        assert other.claim(f"w-{number:016x}", fits=lambda spec: False) is None
    assert calls_of(claim) == alone
    assert 10 < sum(alone.values()) < 100


def test_workers_that_all_see_the_same_jobs_do_not_try_them_all(tmp_path: Path) -> None:
    """A hundred have listed a hundred jobs before anybody tries one: the worst case."""
    calls = fleet.herd(tmp_path / "root", size=100, jobs=100, met=True)
    assert 100 <= calls["tried"] <= 1200, calls  # 600 seen; in order of the list it was 3,700
    assert calls["list"] <= 100
