"""End to end with real DeepSpeed ranks: kills, stops and resumes of a tiny model's training."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import End, Result
from jobspec.records.base import Reason, State
from jobspec.spec import parsing
from jobspec.storage.layout import AttemptPaths
from tests.support.bundles import differences
from tests.support.commands import jobspec, jobspec_json
from tests.support.models import hurry, patient_model
from tests.support.queues import queue_at
from tests.support.specs import tiny_spec, with_model
from tests.support.waiting import until
from tests.support.workers import drain, losses, ranks_of, rows, signal_to, worker

pytestmark = pytest.mark.deepspeed


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Queue:
    """One for all, so that rows are prepared once. No two workers live at once."""
    return queue_at(tmp_path_factory.mktemp("way"), lease_s=2.0)


@pytest.fixture(scope="module")
def calm(tiny: Path, queue: Queue) -> Job:
    """A job that nothing disturbs, from rows to scores."""
    job = queue.enqueue(tiny_spec(tiny, name="calm", evaluate=True))
    drain(queue)
    assert queue.job(job.id).state is State.SUCCEEDED
    return queue.job(job.id)


@pytest.fixture(scope="module")
def uninterrupted(calm: Job) -> dict[int, float]:
    """Its loss by step."""
    return losses(calm.paths.dir)


@dataclass
class Struck:
    """One job whose attempts end in one way after the other."""

    queue: Queue
    job: Job
    number: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    left: dict[str, list[int]] = field(default_factory=dict)
    complete: list[int] = field(default_factory=list)

    @property
    def attempt(self) -> AttemptPaths:
        return self.job.paths.attempt(self.number)

    @contextlib.contextmanager
    def worker(self, how: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """The next attempt's, once three steps more are trained."""
        self.number += 1
        self.ends[how] = self.number
        with worker(self.queue, *options) as process:
            until(lambda: trained_steps(self.attempt.dir, 3), f"three steps before {how}")
            yield process

    def stop(self, name: str) -> None:
        with self.worker(name) as process:
            signal_to(process, name)
            signal_to(process, name)  # Slurm delivers twice
            self.codes[name] = process.wait(60)

    def kill(self, how: str, *options: str, states: int = 1) -> None:
        """Once there is this number of checkpoints, one of them made by this attempt."""
        with self.worker(how, *options) as process:
            first = resumed(self.attempt)["step"]

            def saved() -> bool:
                self.complete = complete_steps(self.attempt)
                return len(self.complete) >= states and self.complete[-1] > first

            until(saved, "a checkpoint")
            assert len(ranks_of(self.attempt.dir)) >= 2
            signal_to(process, "SIGKILL")
            process.wait()
            with contextlib.suppress(AssertionError):  # survivors are reported below
                until(lambda: not ranks_of(self.attempt.dir), "the ranks' end", timeout_s=5.0)
            self.left[how] = ranks_of(self.attempt.dir)


@pytest.fixture(scope="module")
def struck(tiny: Path, queue: Queue, calm: Job, tmp_path_factory: pytest.TempPathFactory) -> Struck:
    """One job through five workers' ends, and the sixth's, which finishes it."""
    model = patient_model(tiny, tmp_path_factory.mktemp("model"), pace_s=0.1)
    spec = tiny_spec(tiny, name="struck", checkpoint_interval_s=0.3)
    run = Struck(queue, queue.enqueue(with_model(spec, model)))
    run.stop("SIGTERM")
    run.stop("SIGUSR2")
    run.kill("auto", "--isolation", "auto")
    run.kill("subreaper", "--isolation", "subreaper")
    run.kill("damage", states=2)
    run.complete = complete_steps(run.attempt)
    newest = run.attempt.checkpoints / f"step-{run.complete[-1]}"
    victim = max(newest.rglob("*.pt"), key=lambda path: path.stat().st_size)
    data = victim.read_bytes()
    victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    hurry(model)
    drain(queue)
    run.number += 1
    return run


def complete_steps(attempt: AttemptPaths) -> list[int]:
    """The steps whose checkpoints are complete, in order."""
    return sorted(int(path.parent.name[5:]) for path in attempt.checkpoints.glob("step-*/COMPLETE"))


def trained_steps(attempt: Path, least: int) -> bool:
    return sum("loss" in row for row in rows(attempt)) >= least


def resumed(attempt: AttemptPaths) -> dict[str, int]:
    """The attempt and the step that an attempt took up; zeros where it began."""
    return rows(attempt.dir)[0].get("resumed_from") or {"attempt": 0, "step": 0}


def last_step(attempt: AttemptPaths) -> int:
    return max(row["step"] for row in rows(attempt.dir) if "loss" in row)


def test_a_job_struck_again_and_again_ends_as_the_undisturbed_one(
    struck: Struck, uninterrupted: dict[int, float]
) -> None:
    job = struck.queue.job(struck.job.id)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 6)
    assert losses(job.paths.dir) == uninterrupted
    assert not list(job.paths.attempts.glob("*/checkpoints/step-*")), "nobody resumes a success"


def test_its_bundle_is_verified(struck: Struck, tmp_path: Path) -> None:
    assert differences(struck.queue.job(struck.job.id), tmp_path) == []


def test_a_replayed_bundle_trains_the_same_weights(queue: Queue, calm: Job, tmp_path: Path) -> None:
    jobspec("bundle", calm.id, "-o", tmp_path / "out", "--root", queue.paths.root)
    (bundle,) = (tmp_path / "out").glob("*.tar.gz")
    spec = parsing.load(calm.paths.spec)
    assert spec.data is not None and spec.eval is not None
    places = {
        "model.name": spec.model.name,
        "data.path": spec.data.path,
        "eval.benchmark_dir": spec.eval.benchmark_dir,
    }
    settings = [part for name, value in places.items() for part in ("--set", f"{name}={value}")]
    other = queue_at(tmp_path)
    at = ("--root", other.paths.root)
    made = jobspec_json("replay", bundle, *settings, *at)
    assert made["same_id"] and made["job"] == calm.id
    drain(other)
    compared = jobspec_json("replay", bundle, "--compare", calm.id, *at)
    found = [(each["check"], each["outcome"]) for each in compared["findings"]]
    assert found == [(name, "ok") for name in ("losses", "scores", "samples", "weights")], compared


@pytest.mark.parametrize("isolation", ["auto", "subreaper"])
def test_kill_9_of_the_worker_leaves_no_rank_and_loses_no_job(
    struck: Struck, isolation: str
) -> None:
    assert struck.left[isolation] == []
    number = struck.ends[isolation]
    killed, after = (struck.job.paths.attempt(n) for n in (number, number + 1))
    assert not killed.done("train").exists()
    assert not killed.end.exists()
    assert resumed(after)["attempt"] == number
    assert resumed(after)["step"] > resumed(killed)["step"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_stop_saves_the_state_and_gives_the_job_back(struck: Struck, name: str) -> None:
    assert struck.codes[name] == (75 if name == "SIGUSR2" else 0)
    number = struck.ends[name]
    stopped, after = (struck.job.paths.attempt(n) for n in (number, number + 1))
    end = records.read(stopped.end, End)
    assert end is not None
    assert end.reason is Reason.PREEMPTED
    assert not stopped.final_model.exists()
    # Of its very last step, not of the interval's last save.
    assert resumed(after) == {"attempt": number, "step": last_step(stopped)}


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(struck: Struck) -> None:
    after = struck.job.paths.attempt(struck.ends["damage"] + 1)
    assert resumed(after)["step"] == struck.complete[-2]
    assert "differs from its SHA-256" in after.log("train").read_text()


def test_an_edited_spec_is_refused(tiny: Path, tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    job = queue.enqueue(tiny_spec(tiny))
    for path in (job.paths.spec, *queue.paths.state("pending").iterdir()):
        path.chmod(0o644)
        path.write_bytes(path.read_bytes().replace(b"0.005", b"0.009"))
    drain(queue)
    job = queue.job(job.id)
    assert (job.state, job.reason) == (State.FAILED, Reason.CORRUPT)


def test_a_job_of_no_great_work_has_little_overhead_of_its_own(calm: Job) -> None:
    result = msgspec.json.decode(calm.paths.result.read_bytes(), type=Result)
    train = msgspec.to_builtins(result.train)
    assert [phase.phase for phase in result.phases] == ["prepare", "train", "eval"]
    assert result.overhead_s < 2.0
    assert calm.paths.final_model.resolve() == calm.paths.attempt(1).final_model
    assert train["engine"]["class"] == "DeepSpeedEngine"
    assert train["engine"]["zero_stage"] == 2
    assert train["engine"]["world_size"] == 2


def test_a_stop_heard_by_one_rank_alone_stops_all_and_fewer_devices_go_on(
    tiny: Path, queue: Queue, tmp_path: Path
) -> None:
    model = patient_model(tiny, tmp_path, pace_s=0.1)
    spec = tiny_spec(tiny, name="alone", zero_stage=3, num_train_epochs=1.0)
    job = queue.enqueue(with_model(spec, model))
    attempt = job.paths.attempt(1).dir
    with worker(queue, "--max-jobs", "1") as process:
        until(lambda: trained_steps(attempt, 5), "five steps")
        ranks = [pid for pid in ranks_of(attempt) if b"rank_launcher" not in command_of(pid)]
        os.kill(max(ranks), signal.SIGUSR2)
        hurry(model)
        # Nobody told the worker: to it the phase stopped of its own accord, and is done again.
        assert process.wait(240) == 0
    drain(queue, "--devices", "1")
    job = queue.job(job.id)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 2)
    second = attempt.parent / "2"
    stopped_at = rows(second)[0]["resumed_from"]["step"]
    assert stopped_at >= 5
    lines = (second / "events.jsonl").read_bytes().splitlines()
    events = [msgspec.json.decode(line) for line in lines]
    converted = next(event for event in events if event["event"] == "converted")
    assert (converted["step"], converted["from_ranks"], converted["to_ranks"]) == (stopped_at, 2, 1)
    result = msgspec.json.decode(job.paths.result.read_bytes(), type=Result)
    train = msgspec.to_builtins(result.train)
    assert [phase.phase for phase in result.phases] == ["prepare", "convert", "train"]
    assert result.phases[1].wall_s > converted["seconds"] > 0
    assert train["conversions"][0]["size"] == converted["size"] > 0
    assert train["engine"]["world_size"] == 1
    assert sorted(losses(job.paths.dir)) == list(range(1, train["steps"] + 1))


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
