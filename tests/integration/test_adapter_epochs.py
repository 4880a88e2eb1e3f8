"""`eval.checkpoints: all` with LoRA: each epoch's adapter is merged, scored, and deleted again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest

from jobspec.queue.queue import Queue
from jobspec.records.base import State
from jobspec.spec.schema import JobSpec, LoraSpec
from jobspec.storage.layout import AttemptPaths, JobPaths
from tests.support.bundles import differences
from tests.support.evaluations import command, environment, read_lines, run_phase
from tests.support.queues import queue_at
from tests.support.specs import tiny_spec
from tests.support.waiting import until
from tests.support.workers import drain
from worker.supervisor.carry_over import carry_over
from worker.training import lora

pytestmark = pytest.mark.deepspeed
NAMES = ["epoch-1", "epoch-2", "final"]


def adapter_spec(tiny: Path) -> JobSpec:
    adapter = LoraSpec(r=8, alpha=16)
    spec = tiny_spec(tiny, evaluate=True, name="adapter", num_train_epochs=3.0, lora=adapter)
    assert spec.eval is not None and spec.data is not None
    return msgspec.structs.replace(
        spec,
        data=msgspec.structs.replace(spec.data, max_train_samples=64),
        eval=msgspec.structs.replace(spec.eval, checkpoints="all"),
    )


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Queue:
    return queue_at(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def job(tiny: Path, queue: Queue) -> JobPaths:
    """A job that a worker trained and scored."""
    made = queue.enqueue(adapter_spec(tiny))
    drain(queue, "--devices", "1")
    assert queue.job(made.id).state is State.SUCCEEDED
    return made.paths


def scores(attempt: AttemptPaths) -> list[dict]:
    return json.loads(attempt.done("eval").read_bytes())["checkpoints"]


def samples(attempt: AttemptPaths, name: str) -> list[str]:
    """The texts that a model generated."""
    below = attempt.eval if name == "final" else attempt.eval / "checkpoints" / name
    files = sorted((below / "aime_demo").glob("generations-*.jsonl"))
    return [row["text"] for file in files for row in read_lines(file)]


def test_every_epoch_of_an_adapter_is_scored(job: JobPaths) -> None:
    attempt = job.attempt(1)
    assert [(each["name"], each["epoch"]) for each in scores(attempt)] == list(
        zip(NAMES, [1, 2, 3], strict=True)
    )
    texts = [samples(attempt, name) for name in NAMES]
    assert [len(each) for each in texts] == [8, 8, 8]
    assert texts[0] != texts[1] != texts[2], "each epoch has weights of its own"
    kept = {path.name for path in attempt.checkpoints.iterdir() if path.is_dir()}
    assert kept == {"epoch-1", "epoch-2"}
    adapters = [path / "adapter_model.safetensors" for path in attempt.checkpoints.glob("epoch-*")]
    assert all(each.stat().st_size < 1 << 20 for each in adapters), "they stay adapters"


def test_its_bundle_is_verified(queue: Queue, job: JobPaths, tmp_path: Path) -> None:
    assert differences(queue.job(job.job), tmp_path) == []


def test_a_merged_epoch_is_what_training_would_have_saved(
    tiny: Path, job: JobPaths, tmp_path: Path
) -> None:
    attempt = job.attempt(1)
    lora.save_merged(adapter_spec(tiny), attempt.adapter, attempt.final_model, tmp_path / "merged")
    names = {path.name for path in attempt.final_model.iterdir()}
    assert {path.name for path in (tmp_path / "merged").iterdir()} == names
    for name in names:
        mine, trained = (tmp_path / "merged" / name), (attempt.final_model / name)
        assert mine.read_bytes() == trained.read_bytes(), name


def test_an_interrupted_merge_is_made_again(job: JobPaths, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(job.dir.parent.parent, root, symlinks=True)
    mine = JobPaths(root / "jobs" / job.job)
    first = mine.attempt(1)
    first.done("eval").unlink()
    shutil.rmtree(first.eval)
    begun = subprocess.Popen(command(first), env=environment(), stderr=subprocess.DEVNULL)
    try:
        until(first.merged_epoch(2).exists)
    finally:
        begun.send_signal(signal.SIGKILL)
        begun.wait()
    assert first.merged_epoch(2).exists() and not first.merged_epoch(1).exists()
    second = mine.attempt(2)
    second.dir.mkdir()
    carry_over(mine, second, root)
    done = run_phase(second)
    assert done.returncode == 0, done.stderr
    assert not first.merged_epoch(2).exists() and not second.merged_epoch(2).exists()
    whole = job.attempt(1)
    assert scores(second) == scores(whole)
    for name in NAMES:
        assert samples(second, name) == samples(whole, name)
    finished = first.eval / "checkpoints" / "epoch-1" / "aime_demo" / "generations-00000.jsonl"
    reused = second.eval / finished.relative_to(first.eval)
    assert reused.read_bytes() == finished.read_bytes()
