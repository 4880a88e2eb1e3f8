"""A filesystem that fails for a moment or a minute, at every call of a complete job.

In the ordinary run every seventh call fails, with one code after the other. `JOBSPEC_OUTAGES=all`
tries every code at every call, which takes ten minutes.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

import pytest

from jobspec.errors import DiskFull, RootError
from jobspec.queue.queue import Queue
from jobspec.records import exit_codes
from jobspec.records.base import State
from jobspec.records.phases import EVAL
from jobspec.records.reports import EvalReport
from jobspec.storage import patience, tempfiles
from tests.support.outages import FULL, TRANSIENT, outage
from tests.support.paths import fast_dir, hidden
from tests.support.queues import entries
from tests.support.specs import score_spec
from worker.host import preflight
from worker.host.devices import WorkerDevices
from worker.host.node_probe import Measured, NodeProber
from worker.phase import Phase
from worker.supervisor import attempt
from worker.supervisor.options import WorkerOptions
from worker.supervisor.worker import Worker

EVERYTHING = os.environ.get("JOBSPEC_OUTAGES") == "all"


class PhaseInThisProcess:
    """In place of a child process: the phase's own calls fail here too."""

    def __init__(self, command: list[str], env: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as stream:
            stream.write(b"started\n")
        phase = Phase(EVAL, command[-1])
        assert phase.spec.train is None
        phase.progress(1, 1, "samples")
        phase.finish(EvalReport(metrics={"bench/x": 0.5}))
        self.wall_s = 0.1

    def wait(self, timeout_s: float) -> int:
        time.sleep(timeout_s)
        return exit_codes.DONE

    def kill(self) -> None: ...


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(attempt, "Child", PhaseInThisProcess)
    monkeypatch.setattr(preflight, "wrong_versions", list)
    figures = Measured(figures={"matmul_tflops": 0.1})  # measured by a child, whose calls succeed
    monkeypatch.setattr(NodeProber, "_measure", lambda *given: figures)
    monkeypatch.setattr(patience, "limit_s", patience.LIMIT_S)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with fast_dir() as path:
        yield path


def life(root: Path, index: int, number: int, seconds: float, *, after: bool) -> tuple[int, bool]:
    """A job from its enqueueing to its end.

    Returns:
        The worker's exit code, and whether a call failed.
    """
    with outage(root, index, number, seconds, after=after) as failing:
        queue = None
        while queue is None:
            try:
                created = Queue.create(root)
                created.enqueue(score_spec())
                queue = created
            except (DiskFull, OSError, RootError):
                assert number in FULL and failing.fired  # the user tries again
                time.sleep(10.0)
        worker = Worker(queue, WorkerOptions(drain=True, poll=True), WorkerDevices(1))
        code = worker.run()
        Queue(root).jobs()
    return code, bool(failing.fired)


def check(root: Path, code: int, number: int) -> None:
    assert code == exit_codes.DONE
    queue = Queue(root)
    assert list(entries(queue).values()) == [["succeeded"]]
    (job,) = queue.jobs()
    assert job.state is State.SUCCEEDED
    assert number in FULL or job.attempt == 1
    assert job.paths.attempt(job.attempt).result.exists()
    assert queue.on_hold() is None
    with mock.patch.object(tempfiles, "lives", lambda pid: False):  # as after this process
        queue.fsck()
    assert [path for path in hidden(root) if path.name.startswith(".tmp-")] == []


def each_call(base: Path, seconds: float, *, after: bool = False, codes: tuple[int, ...]) -> int:
    """Let each call in turn fail. Returns how many lives there were."""
    lives, step = 0, 1 if EVERYTHING else 7
    for tried in [(code,) for code in codes] if EVERYTHING else [codes]:
        for index, number in zip(itertools.count(0, step), itertools.cycle(tried), strict=False):
            root = base / f"{index}-{number}"
            code, fired = life(root, index, number, seconds, after=after)
            check(root, code, number)
            if not fired:
                break
            lives += 1
    return lives


@pytest.mark.parametrize("after", [False, True], ids=["not-made", "made"])
def test_a_single_error_at_any_call_changes_nothing(base: Path, after: bool) -> None:
    lives = each_call(base, 0.0, after=after, codes=TRANSIENT)
    sys.stdout.write(f"{lives} lives\n")
    assert lives > 20


def test_a_minute_of_errors_from_any_call_on_changes_nothing(base: Path) -> None:
    lives = each_call(base, 60.0, codes=TRANSIENT)
    sys.stdout.write(f"{lives} lives\n")
    assert lives > 20


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_root_that_cannot_be_written_holds_the_worker_until_it_can(
    base: Path, seconds: float
) -> None:
    lives = each_call(base, seconds, codes=FULL)
    sys.stdout.write(f"{lives} lives\n")
    assert lives > 8
