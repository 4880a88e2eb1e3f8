"""How an attempt commits: what it looks at first, and what it makes of a root that fails."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from jobspec.queue.claim import Claim
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records import exit_codes
from jobspec.records.attempt import End
from jobspec.records.base import Reason, State
from jobspec.storage import fs
from tests.support.specs import score_spec
from worker.host.devices import WorkerDevices
from worker.phases import PhaseEntry
from worker.supervisor import attempt
from worker.supervisor.attempt import Attempt
from worker.supervisor.commit import Commit
from worker.supervisor.exit_reason import PhaseOutcome
from worker.supervisor.options import WorkerOptions
from worker.supervisor.worker import Worker


@pytest.fixture
def worker(queue: Queue) -> Iterator[Worker]:
    worker = Worker(queue, WorkerOptions(), WorkerDevices(1))
    yield worker
    shutil.rmtree(worker.tmp)


def claimed(worker: Worker) -> Claim:
    worker.queue.enqueue(score_spec())
    claim = worker.queue.claim(worker.id)
    assert claim is not None
    claim.dir.done("eval").write_text("{}")  # so that only the commit is left
    return claim


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
def test_a_commit_that_was_made_before_the_root_failed_is_no_loss(
    worker: Worker, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, failed, real = claimed(worker), list[Path](), fs.sync_dir

    def fails_once(path: Path) -> None:
        if path.name == state and not failed:
            failed.append(path)
            raise OSError(errno.EIO, "the claim has been moved, and nobody knows for how long")
        real(path)

    monkeypatch.setattr(fs, "sync_dir", fails_once)
    monkeypatch.setattr(Commit, "_wait_for_root", lambda self: None)
    if state is State.FAILED:
        broken = PhaseOutcome(Reason.FAILED, "bad input", again=False)
        monkeypatch.setattr(Attempt, "_phases", lambda self: broken)
    ended = Attempt(worker, claim).run()
    assert failed
    assert ended.state is state
    assert worker.queue.job(claim.job).state is state
    end = records.read(claim.dir.end, End)
    assert end is not None and (end.reason, end.worker) == (Reason(state), worker.id)


@pytest.mark.parametrize("code", [0, 1, 134, exit_codes.KILLED, None])
def test_a_phase_whose_report_is_there_is_finished_however_its_processes_ended(
    worker: Worker, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claimed(worker)
    report = claim.dir.done("eval")
    report.unlink()
    runs: list[str] = []

    def run(self: Attempt, phase: PhaseEntry, ranks: int) -> int | None:
        runs.append(phase.name)
        report.write_text("{}")
        return code

    monkeypatch.setattr(Attempt, "_run", run)
    assert Attempt(worker, claim).run().state is State.SUCCEEDED
    assert runs == ["eval"]


@pytest.mark.parametrize(
    "outcome",
    [
        PhaseOutcome(Reason.SUCCEEDED),
        PhaseOutcome(Reason.FAILED, again=False),
        PhaseOutcome(Reason.PREEMPTED),
        PhaseOutcome(Reason.DISK),
    ],
    ids=lambda outcome: outcome.reason,
)
def test_a_worker_that_lost_its_claim_writes_no_end_and_no_hold(
    worker: Worker, outcome: PhaseOutcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claimed(worker)
    monkeypatch.setattr(Attempt, "_phases", lambda self: outcome)
    worker.queue.reap(worker=worker.id, now=True)
    ended = Attempt(worker, claim).run()
    assert (ended.state, ended.reason) == (None, Reason.LOST)
    assert not claim.dir.end.exists() and not claim.dir.result.exists()
    assert worker.queue.on_hold() is None
    assert worker.queue.job(claim.job).state is State.PENDING


class DeletesItsDirectory:
    """In place of a phase: its job's directory is removed while it runs."""

    def __init__(self, command: list[str], env: Mapping[str, str], log: Path) -> None:
        log.write_bytes(b"")
        shutil.rmtree(log.parent.parent.parent)
        self.wall_s = 0.1

    def wait(self, timeout_s: float) -> int | None:
        return None

    def kill(self) -> None: ...


def test_a_worker_survives_that_its_jobs_directory_is_deleted(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "Child", DeletesItsDirectory)
    worker.queue.enqueue(score_spec())
    claim = worker.queue.claim(worker.id)
    assert claim is not None
    ended = Attempt(worker, claim).run()
    assert (ended.state, ended.reason) == (State.PENDING, Reason.FILESYSTEM)
    assert "its directory was deleted while it ran" in ended.message
    job = worker.queue.job(claim.job)
    assert (job.state, job.attempt, job.reason) == (State.PENDING, 2, Reason.FILESYSTEM)
    again = worker.queue.claim(worker.id)
    assert again is not None and job.paths.spec.exists()
