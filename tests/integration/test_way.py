"""The whole way with real DeepSpeed ranks: kills, stops and resumes of a tiny model's training."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import pytest
from waykit import drain, losses, queue_at, ranks_of, rows, signal_to, tiny_spec, until, worker

from jobspec import record
from jobspec.queue import Queue
from jobspec.record import End, Reason, State
from jobspec.spec import JobSpec

pytestmark = pytest.mark.deepspeed


@pytest.fixture(scope="module")
def uninterrupted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The loss by step of a run that nothing disturbs."""
    queue = queue_at(tmp_path_factory.mktemp("calm"))
    job = queue.enqueue(tiny_spec(tiny))
    drain(queue)
    assert queue.job(job.id).state is State.SUCCEEDED
    return losses(job.paths.dir)


def start_training(queue: Queue, spec: JobSpec) -> Path:
    """Enqueue; the directory of attempt 1."""
    return queue.enqueue(spec).paths.attempt(1).dir


def trained_steps(attempt: Path, least: int) -> bool:
    return sum("loss" in row for row in rows(attempt)) >= least


@pytest.mark.parametrize("isolation", ["auto", "subreaper"])
def test_kill_9_of_the_worker_leaves_no_rank_and_loses_no_job(
    tiny: Path, tmp_path: Path, uninterrupted: dict[int, float], isolation: str
) -> None:
    queue = queue_at(tmp_path)
    spec = tiny_spec(tiny, checkpoint_interval_s=0.5)
    attempt = start_training(queue, spec)
    with worker(queue, "--isolation", isolation) as first:
        until(lambda: list(attempt.glob("checkpoints/step-*/COMPLETE")), "a resume state")
        assert len(ranks_of(attempt)) >= 2
        signal_to(first, "SIGKILL")
        first.wait()
        until(lambda: not ranks_of(attempt), "the ranks' end", timeout_s=5.0)
    assert not (attempt / "train.json").exists()

    drain(queue)

    job = queue.jobs()[0]
    assert (job.state, job.attempt) == (State.SUCCEEDED, 2)
    resumed = rows(attempt.parent / "2")[0]["resumed_from"]
    assert resumed["attempt"] == 1
    assert resumed["step"] > 0
    same = losses(job.paths.dir)
    assert {step: same[step] for step in uninterrupted} == uninterrupted


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_stop_saves_the_state_and_gives_the_job_back(
    tiny: Path, tmp_path: Path, uninterrupted: dict[int, float], name: str
) -> None:
    queue = queue_at(tmp_path)
    attempt = start_training(queue, tiny_spec(tiny))
    with worker(queue) as first:
        until(lambda: trained_steps(attempt, 5), "five steps")
        signal_to(first, name)
        signal_to(first, name)  # Slurm delivers twice
        assert first.wait(60) == (75 if name == "SIGUSR2" else 0)
    job = queue.jobs()[0]
    assert (job.state, job.attempt) == (State.PENDING, 2)
    end = record.read(attempt / "end.json", End)
    assert end is not None
    assert end.reason is Reason.PREEMPTED
    assert not (attempt / "final_model").exists()

    drain(queue)

    job = queue.jobs()[0]
    assert (job.state, job.attempt) == (State.SUCCEEDED, 2)
    assert losses(job.paths.dir) == uninterrupted
    assert not list(job.paths.attempts.glob("*/checkpoints/step-*")), "nobody resumes a success"


def test_a_state_whose_bytes_changed_is_passed_over_for_the_one_before(
    tiny: Path, tmp_path: Path, uninterrupted: dict[int, float]
) -> None:
    queue = queue_at(tmp_path)
    attempt = start_training(queue, tiny_spec(tiny, checkpoint_interval_s=0.2))
    with worker(queue) as first:
        until(lambda: len(list(attempt.glob("checkpoints/step-*/COMPLETE"))) == 2, "two states")
        signal_to(first, "SIGKILL")
        first.wait()
    until(lambda: not ranks_of(attempt), "the ranks' end", timeout_s=5.0)
    sealed = {int(p.parent.name[5:]): p.parent for p in attempt.glob("checkpoints/*/COMPLETE")}
    victim = max(sealed[max(sealed)].rglob("*.pt"), key=lambda path: path.stat().st_size)
    data = victim.read_bytes()
    victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    drain(queue)

    job = queue.jobs()[0]
    assert job.state is State.SUCCEEDED
    assert rows(attempt.parent / "2")[0]["resumed_from"]["step"] == min(sealed)
    assert "differs from its SHA-256" in (attempt.parent / "2" / "train.log").read_text()
    assert losses(job.paths.dir) == uninterrupted


def test_an_edited_spec_is_refused(tiny: Path, tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    job = queue.enqueue(tiny_spec(tiny))
    for path in (job.paths.spec, *queue.paths.state("pending").iterdir()):
        path.chmod(0o644)
        path.write_bytes(path.read_bytes().replace(b"0.005", b"0.009"))
    drain(queue)
    job = queue.job(job.id)
    assert (job.state, job.reason) == (State.FAILED, Reason.CORRUPT)


def test_a_job_of_no_great_work_has_little_overhead_of_its_own(tiny: Path, tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    job = queue.enqueue(tiny_spec(tiny, num_train_epochs=1.0, evaluate=True))
    drain(queue)
    result = msgspec.json.decode(job.paths.result.read_bytes(), type=record.Result)
    assert [phase.phase for phase in result.phases] == ["prepare", "train", "eval"]
    assert result.overhead_s < 2.0
    assert job.paths.final_model.resolve() == job.paths.attempt(1).final_model
    assert result.train["engine"]["class"] == "DeepSpeedEngine"
    assert result.train["engine"]["zero_stage"] == 2
    assert result.train["engine"]["world_size"] == 2


def test_a_stop_heard_by_one_rank_alone_stops_all_and_fewer_devices_go_on(
    tiny: Path, tmp_path: Path
) -> None:
    queue = queue_at(tmp_path)
    attempt = start_training(queue, tiny_spec(tiny, zero_stage=3, num_train_epochs=1.0))
    with worker(queue, "--max-jobs", "1") as process:
        until(lambda: trained_steps(attempt, 5), "five steps")
        ranks = [pid for pid in ranks_of(attempt) if b"sitter" not in command_of(pid)]
        os.kill(max(ranks), signal.SIGUSR2)
        # Nobody told the worker: to it the phase stopped of its own accord, and is done again.
        assert process.wait(240) == 0
    drain(queue, "--devices", "1")
    job = queue.jobs()[0]
    assert (job.state, job.attempt) == (State.SUCCEEDED, 2)
    second = attempt.parent / "2"
    stopped_at = rows(second)[0]["resumed_from"]["step"]
    assert stopped_at >= 5
    lines = (second / "events.jsonl").read_bytes().splitlines()
    events = [msgspec.json.decode(line) for line in lines]
    converted = next(event for event in events if event["event"] == "converted")
    assert (converted["step"], converted["from_ranks"], converted["to_ranks"]) == (stopped_at, 2, 1)
    result = msgspec.json.decode(job.paths.result.read_bytes(), type=record.Result)
    assert [phase.phase for phase in result.phases] == ["prepare", "convert", "train"]
    assert result.phases[1].wall_s > converted["seconds"] > 0
    assert result.train["conversions"][0]["size"] == converted["size"] > 0
    assert result.train["engine"]["world_size"] == 1
    assert sorted(losses(job.paths.dir)) == list(range(1, result.train["steps"] + 1))


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
