"""Loss classes with real ranks: memory, NaN, hangs, slow workers, cancels, hosts, full disks."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from safetensors.numpy import load_file, save_file

from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import End
from jobspec.records.base import Reason, State
from jobspec.records.manifest import MicroBatchPlan
from jobspec.records.phases import TRAIN
from jobspec.storage.layout import AttemptPaths
from tests.support.models import coded_model, hurry, patient_model
from tests.support.paths import REPOSITORY
from tests.support.queues import queue_at
from tests.support.specs import tiny_spec, with_model
from tests.support.waiting import DEADLINE_S, until
from tests.support.workers import drain, ranks_of, rows, signal_to, worker

pytestmark = pytest.mark.deepspeed

ONE = ("--devices", "1")  # where a second rank would show nothing more

HUNGRY = '''
import torch
from transformers import Olmo3ForCausalLM


class Hungry(Olmo3ForCausalLM):
    """A model whose device holds a limited number of tokens at a time."""

    def __init__(self, config):
        super().__init__(config)
        self.model.register_forward_pre_hook(self.allocate, with_kwargs=True)

    def allocate(self, module, args, kwargs):
        if kwargs["input_ids"].numel() > {limit}:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
'''


BREAKING = '''
from transformers import Olmo3ForCausalLM


class Breaking(Olmo3ForCausalLM):
    """A model that computes NaN in its first training step; the check before it is the first."""

    trained = 0

    def __init__(self, config):
        super().__init__(config)
        self.model.norm.register_forward_hook(self.break_down)

    def break_down(self, module, args, output):
        self.trained += self.training
        return output * float("nan") if self.training and self.trained > 1 else output
'''


FAULTY = '''
import os
from pathlib import Path

from transformers import Olmo3ForCausalLM


class Faulty(Olmo3ForCausalLM):
    """A model that aborts {times} processes in a later step, as NCCL's watchdog does it."""

    trained = 0

    def __init__(self, config):
        super().__init__(config)
        self.model.norm.register_forward_hook(self.abort)

    def abort(self, module, args, output):
        self.trained += self.training
        happened = Path("{model}/happened")
        times = happened.stat().st_size if happened.exists() else 0
        if self.trained > 5 and times < {times}:
            happened.write_bytes(bytes(times + 1))
            os.abort()
'''


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Queue:
    """One for most of these tests, so that rows are prepared once."""
    return queue_at(tmp_path_factory.mktemp("losses"))


def end_of(attempt: AttemptPaths) -> End:
    end = records.read(attempt.end, End)
    assert end is not None
    return end


def hungry_model(tiny: Path, directory: Path, limit: int) -> Path:
    return coded_model(tiny, directory / "hungry", HUNGRY.format(limit=limit))


def test_out_of_memory_is_tried_once_more_with_half_the_micro_batch(
    tiny: Path, tmp_path: Path, queue: Queue
) -> None:
    model = hungry_model(tiny, tmp_path, limit=2 * 184)
    spec = tiny_spec(tiny, name="half", per_device_train_batch_size=4, num_train_epochs=1.0)
    job = queue.enqueue(with_model(spec, model))
    drain(queue, *ONE)
    assert queue.job(job.id).state is State.SUCCEEDED
    first, second = job.paths.attempt(1), job.paths.attempt(2)
    assert end_of(first).reason is Reason.OOM
    plans = [
        msgspec.json.decode(attempt.manifest.read_bytes())["plan"] for attempt in (first, second)
    ]
    micro = [plan["per_device_train_batch_size"] for plan in plans]
    accumulation = [plan["gradient_accumulation_steps"] for plan in plans]
    assert (micro, accumulation) == ([4, 2], [2, 4])


def test_out_of_memory_is_tried_once_more_with_the_least_memory_that_auto_allows(
    tiny: Path, tmp_path: Path, queue: Queue
) -> None:
    model = hungry_model(tiny, tmp_path, limit=2 * 184)
    auto = {"packing": "auto", "gradient_checkpointing": "auto"}
    spec = tiny_spec(tiny, name="least", num_train_epochs=0.2, **auto)
    job = queue.enqueue(with_model(spec, model))
    drain(queue, *ONE)
    assert queue.job(job.id).state is State.SUCCEEDED
    first, second = job.paths.attempt(1), job.paths.attempt(2)
    message = end_of(first).message
    assert message.endswith("; retried with the settings that take the least memory")
    plans = [records.read(each.micro_batches, MicroBatchPlan) for each in (first, second)]
    assert plans[0] == MicroBatchPlan(tokens=2048, recomputed_layers=0, layers=2)
    least = plans[1]
    assert least is not None and least.tokens is not None
    assert least.tokens <= 184, "the longest row"
    assert (least.recomputed_layers, least.least_memory) == (2, True)
    report = TRAIN.read(second)
    assert report is not None
    used = (report.engine.micro_batch_tokens, report.engine.recomputed_layers)
    assert used == (least.tokens, 2)


def test_out_of_memory_at_one_row_fails_and_names_what_would_fit(
    tiny: Path, tmp_path: Path, queue: Queue
) -> None:
    model = hungry_model(tiny, tmp_path, limit=8)
    spec = tiny_spec(tiny, name="row", per_device_train_batch_size=1, num_train_epochs=1.0)
    job = queue.enqueue(with_model(spec, model))
    drain(queue, *ONE)
    assert queue.job(job.id).state is State.FAILED
    end = end_of(job.paths.attempt(1))
    assert end.reason is Reason.OOM
    assert "train.gradient_checkpointing=true" in (end.hint or "")
    assert "train.zero_stage=3" in (end.hint or "")


def test_a_loss_that_is_not_a_number_fails_at_once_with_its_step(
    tiny: Path, tmp_path: Path, queue: Queue
) -> None:
    model = coded_model(tiny, tmp_path / "breaking", BREAKING)
    job = queue.enqueue(with_model(tiny_spec(tiny, name="breaking"), model))
    drain(queue, *ONE)
    found = queue.job(job.id)
    assert (found.state, found.attempt) == (State.FAILED, 1)
    end = end_of(job.paths.attempt(1))
    assert end.reason is Reason.FAILED
    assert end.step == 1
    assert "nan at step 1" in end.message


def test_a_process_that_a_fault_of_the_host_ends_in_mid_training_costs_one_attempt(
    tiny: Path, tmp_path: Path, queue: Queue
) -> None:
    model = tmp_path / "faulty"
    coded_model(tiny, model, FAULTY.format(model=model, times=1))
    job = queue.enqueue(with_model(tiny_spec(tiny, name="faulty", num_train_epochs=1.0), model))
    drain(queue, *ONE)
    found = queue.job(job.id)
    assert (found.state, found.attempt) == (State.SUCCEEDED, 2)
    end = end_of(job.paths.attempt(1))
    assert (end.reason, end.exit_code, end.unexplained) == (Reason.FAILED, 134, True)
    assert re.match(r"train exited with SIGABRT: train: \d+ of 19 steps", end.message)


@pytest.mark.parametrize(
    ("interval_s", "ended"), [(0.01, (State.SUCCEEDED, 4)), (900.0, (State.FAILED, 2))]
)
def test_faults_of_hosts_end_a_training_only_if_it_saved_nothing_in_between(
    tiny: Path, tmp_path: Path, queue: Queue, interval_s: float, ended: tuple[State, int]
) -> None:
    model = tmp_path / "faulty"
    coded_model(tiny, model, FAULTY.format(model=model, times=3))
    spec = tiny_spec(
        tiny, name=f"often-{ended[1]}", num_train_epochs=1.0, checkpoint_interval_s=interval_s
    )
    job = queue.enqueue(with_model(spec, model))
    drain(queue, *ONE)
    found = queue.job(job.id)
    assert (found.state, found.attempt) == ended


def test_weights_that_are_not_numbers_are_refused_before_training(
    tiny: Path, tmp_path: Path, queue: Queue
) -> None:
    model = tmp_path / "nan"
    shutil.copytree(tiny / "model", model)
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    job = queue.enqueue(with_model(tiny_spec(tiny), model))
    drain(queue, *ONE)
    found = queue.job(job.id)
    assert (found.state, found.attempt) == (State.FAILED, 1)
    end = end_of(job.paths.attempt(1))
    assert (end.reason, end.step) == (Reason.FAILED, None)
    assert "logits that are not finite, before any training" in end.message


def test_a_hung_phase_is_killed_and_the_job_goes_on(
    tiny: Path, tmp_path: Path, queue: Queue
) -> None:
    model = patient_model(tiny, tmp_path, pace_s=0.2)
    spec = tiny_spec(tiny, name="hung", num_train_epochs=2.0, checkpoint_interval_s=0.5)
    job = queue.enqueue(with_model(spec, model))
    attempt = job.paths.attempt(1)

    def saved() -> bool:
        """Whether there is a checkpoint. Loading logs nothing for long, so the test does."""
        for phase in ("prepare", "train"):
            if attempt.log(phase).exists():
                with attempt.log(phase).open("a") as log:
                    log.write("still here\n")
        return bool(list(attempt.dir.glob("checkpoints/step-*/COMPLETE")))

    # Not much more than the ten seconds between two looks.
    with worker(queue, "--max-jobs", "1", "--stall", "12") as process:
        until(saved, "a checkpoint")
        victim = max(ranks_of(attempt.dir))
        os.kill(victim, signal.SIGSTOP)  # a rank that answers nobody: the others wait for it
        assert process.wait(DEADLINE_S) == 0
    assert end_of(attempt).reason is Reason.NODE
    assert "hung" in end_of(attempt).message
    assert not ranks_of(attempt.dir)
    hurry(model)
    drain(queue)
    assert queue.job(job.id).state is State.SUCCEEDED
    assert rows(job.paths.attempt(2).dir)[0]["resumed_from"]["attempt"] == 1


def test_a_worker_that_was_stopped_past_its_lease_changes_nothing(
    tiny: Path, tmp_path: Path, queue: Queue
) -> None:
    model = patient_model(tiny, tmp_path, pace_s=0.2)
    spec = tiny_spec(tiny, name="slow", num_train_epochs=2.0, checkpoint_interval_s=1.0)
    job = queue.enqueue(with_model(spec, model))
    first = job.paths.attempt(1)
    with worker(queue, *ONE) as slow:
        until(lambda: list(first.dir.glob("checkpoints/step-*/COMPLETE")), "a checkpoint")
        everyone = [slow.pid, *ranks_of(first.dir)]
        for pid in everyone:
            os.kill(pid, signal.SIGSTOP)
        hurry(model)
        drain(queue, *ONE)
        assert queue.job(job.id).state is State.SUCCEEDED
        assert job.paths.final_model.resolve() == job.paths.attempt(2).final_model
        before = snapshot(job.paths.dir, but=first.dir)
        for pid in reversed(everyone):
            os.kill(pid, signal.SIGCONT)
        until(lambda: not ranks_of(first.dir), "the phase of the slow worker to be killed", 30)
        assert not first.done("train").exists()  # killed, not left to finish
        # It noticed, and works on: another job is done by it.
        other = queue.enqueue(tiny_spec(tiny, name="other", num_train_epochs=1.0))
        until(lambda: queue.job(other.id).state is State.SUCCEEDED, "the other job")
        assert slow.poll() is None
        signal_to(slow, "SIGTERM")
        assert slow.wait(30) == 0
    assert f"attempt 1 of `{job.id}` no longer holds its claim" in worker_output(queue)
    assert snapshot(job.paths.dir, but=first.dir) == before
    assert queue.job(job.id).attempt == 2


def worker_output(queue: Queue) -> str:
    """What all workers of a test said."""
    return "".join(log.read_text() for log in queue.paths.root.glob("worker-*.log"))


def snapshot(directory: Path, but: Path) -> dict[str, tuple[int, int]]:
    """Size and modification of every file of a job outside one attempt."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in directory.rglob("*")
        if but not in path.parents and path != but and not path.is_dir()
    }


def test_a_cancelled_job_is_left_within_a_heartbeat(tiny: Path, queue: Queue) -> None:
    job = queue.enqueue(tiny_spec(tiny, name="cancelled", num_train_epochs=100.0))
    attempt = job.paths.attempt(1)
    with worker(queue, *ONE) as process:
        until(lambda: any("loss" in row for row in rows(attempt.dir)), "a step")
        queue.cancel(job.id)
        until(lambda: not ranks_of(attempt.dir), "the phase to be killed", timeout_s=5.0)
        assert process.poll() is None
    assert queue.job(job.id).state is State.CANCELLED


def test_a_host_without_its_gpus_takes_no_job_and_another_does_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm promises a GPU that does not answer: real preflight, two host names."""
    queue = queue_at(tmp_path)
    bad = host_worker(queue, "badhost", SLURM_GPUS_ON_NODE="1")
    good = host_worker(queue, "goodhost")
    try:
        until(lambda: note_of(queue, "badhost"), "the bad host to say so")
        until(lambda: note_of(queue, "goodhost") is not None, "the good host")
        job = queue.enqueue(tiny_spec(tiny, num_train_epochs=1.0))
        until(lambda: queue.job(job.id).state is State.SUCCEEDED, "the job")
        assert end_of(job.paths.attempt(1)).host == "goodhost"
        assert "CUDA unavailable" in (note_of(queue, "badhost") or "")
        assert "badhost" in queue.quarantined()
        shown = subprocess.run(
            [sys.executable, "-m", "jobspec.cli", "status", "--root", str(queue.paths.root)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "badhost" in shown
    finally:
        for process in (bad, good):
            process.kill()
            process.wait()


def host_worker(queue: Queue, host: str, **env: str) -> subprocess.Popen[bytes]:
    """A worker that believes to be on another host: a UTS namespace of its own."""
    unshare = ["unshare", *(["--user", "--map-root-user"] if os.geteuid() else []), "--uts"]
    if subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("needs root or user namespaces, for a worker with another host name")
    script = (
        f"hostname {host} && exec {sys.executable} -m worker --root {queue.paths.root} --devices 1"
    )
    return subprocess.Popen(
        [*unshare, "sh", "-c", script],
        cwd=REPOSITORY,
        env={**os.environ, **env},
        stderr=subprocess.DEVNULL,
    )


def note_of(queue: Queue, host: str) -> str | None:
    """What a host's worker says of itself; None where it has not yet shown itself."""
    found = [seen.record for seen in queue.workers() if seen.record.host == host]
    return (found[0].note or "") if found else None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem that is soon full."""
    if os.geteuid():
        pytest.skip("needs root to mount a filesystem")
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1100m", "tmpfs", str(place)]
    subprocess.run(command, check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_holds_the_queue_until_there_is_space(
    tiny: Path, tmp_path: Path, small_disk: Path
) -> None:
    queue = queue_at(small_disk)
    model = patient_model(tiny, tmp_path, pace_s=0.2)
    spec = tiny_spec(tiny, num_train_epochs=1.0, checkpoint_interval_s=0.5)
    job = queue.enqueue(with_model(spec, model))
    attempt = job.paths.attempt(1)
    with worker(queue, "--drain", *ONE) as process:
        until(lambda: any("loss" in row for row in rows(attempt.dir)), "a step")
        trainers = ranks_of(attempt.dir)
        for pid in trainers:  # they would be done before a disk is full
            os.kill(pid, signal.SIGSTOP)
        filler = small_disk / "filler"
        fill(filler)
        for pid in reversed(trainers):
            os.kill(pid, signal.SIGCONT)
        until(lambda: queue.on_hold() is not None, "the hold")
        until(lambda: not ranks_of(attempt.dir), "the phase's end")
        # Not even the reason can be written: the worker keeps its claim and does not drain.
        assert queue.job(job.id).state is State.RUNNING
        assert process.poll() is None
        filler.unlink()
        hurry(model)
        until(lambda: queue.on_hold() is None, "the release")
        assert process.wait(DEADLINE_S) == 0
    assert queue.job(job.id).state is State.SUCCEEDED
    assert end_of(attempt).reason is Reason.DISK
    assert not list(queue.paths.jobs.rglob(".tmp-*"))


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb") as stream:
        while True:
            try:
                stream.write(bytes(1 << 20))
                stream.flush()
            except OSError:
                return
