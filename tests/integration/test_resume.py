"""Stops and resumes, struck at exact places: every run ends as the one that nothing disturbed."""

from __future__ import annotations

import os
import pickletools
import random
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch

from jobspec.queue.queue import Queue
from jobspec.records import exit_codes
from jobspec.spec.schema import JobSpec
from tests.support.queues import queue_at
from tests.support.ranks import Forge, Run, Strike, start
from tests.support.specs import tiny_spec
from worker.checkpoints import directories, integrity
from worker.launch.plan import BatchPlan

pytestmark = pytest.mark.deepspeed

STEPS = 24  # three epochs of eight
STOPPED = [75, 75]
SEED = int(os.environ.get("JOBSPEC_TEST_SEED") or random.randrange(1000))


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Queue:
    return queue_at(tmp_path_factory.mktemp("queue"))


@pytest.fixture(scope="module", params=[2, 3], ids=lambda stage: f"zero-{stage}")
def calm(ranks: Forge, queue: Queue, tiny: Path, request: pytest.FixtureRequest) -> Run:
    """The run that nothing disturbs."""
    run = start(ranks, queue, spec(tiny, "calm", request.param))
    assert run.go() == [0, 0], run.attempt.log("train").read_text()
    assert len(run.losses) == STEPS
    return run


def spec(tiny: Path, name: str, stage: int, **train: Any) -> JobSpec:
    auto = {"packing": "auto", "gradient_checkpointing": "auto"}
    settings = {"num_train_epochs": 3.0, **auto, **train}
    made = tiny_spec(tiny, name=f"{name}-{stage}", zero_stage=stage, **settings)
    assert made.data is not None
    fewer = msgspec.structs.replace(made.data, max_train_samples=64, eval_split_ratio=0.2)
    return msgspec.structs.replace(made, data=fewer)


def state_of(run: Run) -> str | None:
    """The newest checkpoint of the last attempt."""
    checkpoint = directories.newest_complete(run.attempt)
    return checkpoint.dir.name if checkpoint is not None else None


def test_a_run_struck_nine_times_ends_as_the_calm_one_bit_for_bit(
    ranks: Forge, queue: Queue, tiny: Path, calm: Run
) -> None:
    assert calm.spec.train is not None
    run = start(ranks, queue, spec(tiny, "struck", calm.spec.train.zero_stage))
    draw = random.Random(SEED)
    sys.stdout.write(f"JOBSPEC_TEST_SEED={SEED}\n")  # pytest shows it if the test fails

    # In the first of two batches of the first evaluation: it is broken off, nothing is trained.
    assert run.go(Strike("evaluation", "SIGTERM")) == STOPPED
    assert state_of(run) is None
    assert run.eval_losses == {}

    codes = run.go(Strike("step", "SIGKILL", rank=1, nth=draw.randint(4, 6), to=(1,)))
    assert codes[1] == -9
    assert codes[0] != 0
    assert state_of(run) == "step-3"

    # While the model is loaded: no step is made.
    assert run.go(Strike("load", "SIGUSR2", rank=1, to=(1,))) == STOPPED
    assert state_of(run) == "step-3"

    # All ranks, in the middle of an interval's save: it is finished, the stop comes a step later.
    assert run.go(Strike("state, after the shards", "SIGUSR2", to=(0, 1))) == STOPPED
    assert state_of(run) == "step-7"

    # Over an epoch's end; killed before one of two ranks has written its shard.
    codes = run.go(Strike("state, before a shard", "SIGKILL", rank=1, nth=2, to=(1,)))
    assert codes[1] == -9
    assert state_of(run) == "step-9"
    assert (run.attempt.checkpoints / "step-12").is_dir()  # half of it, without COMPLETE
    assert (run.attempt.checkpoints / "epoch-1").is_dir()

    # One rank at a random step, the other while that stop's state is being written.
    step = draw.randint(10, 11)
    first = Strike("step", "SIGTERM", nth=step - 9)
    assert run.go(first, Strike("state, after the shards", "SIGUSR2", 1, to=(1,))) == STOPPED
    assert state_of(run) == f"step-{step}"
    assert not (run.job.attempt(run.number - 1).checkpoints / "step-12").exists()

    # Both, in the middle of an epoch's save: its partial files do not count as weights.
    assert run.go(Strike("weights", "SIGKILL", to=(1, 0))) == [-9, -9]
    assert state_of(run) == "step-15"
    assert not (run.attempt.checkpoints / "epoch-2").exists()

    # In an epoch's evaluation: the state says that its loss is still to be measured.
    assert run.go(Strike("evaluation", "SIGTERM", rank=1, to=(1,))) == STOPPED
    assert state_of(run) == "step-16"
    assert 16 not in run.eval_losses
    assert not (run.attempt.checkpoints / "epoch-2").exists()

    # It is measured first; then the first rank dies with all written but COMPLETE.
    assert run.go(Strike("state, before its manifest", "SIGKILL"))[0] == -9
    assert state_of(run) == "step-16"
    assert (run.attempt.checkpoints / "epoch-2").is_dir()

    assert run.go() == [0, 0], run.history
    assert run.losses == calm.losses, run.history
    assert run.eval_losses == calm.eval_losses
    assert run.summary["resumed_from"] == {"attempt": 8, "step": 16}
    epochs = [path.name for path in run.attempt.checkpoints.iterdir() if "epoch" in path.name]
    assert sorted(epochs) == ["epoch-1", "epoch-2"]


def test_a_checkpoint_without_split_groups_is_resumed(
    ranks: Forge, queue: Queue, tiny: Path, calm: Run
) -> None:
    """Versions that did not split the optimizer's groups wrote such checkpoints."""
    assert calm.spec.train is not None
    stage = calm.spec.train.zero_stage
    run = start(ranks, queue, spec(tiny, "unsplit", stage))
    run.plain = True
    assert run.go(Strike("step", "SIGUSR2", nth=5)) == STOPPED
    assert group_elements(run) is None
    run.plain = False
    assert run.go(Strike("step", "SIGUSR2", nth=5)) == STOPPED
    assert group_elements(run) is None
    assert (group_elements(calm) is None) == (stage != 2)
    assert run.go() == [0, 0]
    assert run.losses.keys() == calm.losses.keys()
    assert max(abs(run.losses[step] - calm.losses[step]) for step in calm.losses) < 1e-6


def test_moments_in_8_bits_continue_bit_for_bit_and_on_another_number_of_ranks(
    ranks: Forge, queue: Queue, tiny: Path
) -> None:
    eight = {"optim": "adamw_8bit", "num_train_epochs": 1.0}
    runs = [start(ranks, queue, spec(tiny, name, 2, **eight)) for name in ("8a", "8b", "8c")]
    calm, stopped, converted = runs
    assert calm.go() == [0, 0], calm.attempt.log("train").read_text()
    assert "adamw_8bit, torchao" in calm.summary["engine"]["optimizer"]
    for run in (stopped, converted):
        assert run.go(Strike("step", "SIGUSR2", nth=5)) == STOPPED
    assert stopped.go() == [0, 0]
    assert stopped.losses == calm.losses
    assert converted.go(world=1) == [0], converted.history
    difference = max(abs(converted.losses[step] - calm.losses[step]) for step in calm.losses)
    assert difference < 0.01, "the moments were rounded again"


def test_float8_continues_bit_for_bit_and_saves_ordinary_weights(
    ranks: Forge, queue: Queue, tiny: Path
) -> None:
    runs = []
    for name in ("calm-float8", "float8"):
        plain = spec(tiny, name, 2, precision="float8", num_train_epochs=1.0)
        bfloat16 = msgspec.structs.replace(plain.model, dtype="bfloat16")
        runs.append(start(ranks, queue, msgspec.structs.replace(plain, model=bfloat16)))
    calm, stopped = runs
    assert calm.go() == [exit_codes.REFUSED] * 2, "a CPU does not multiply in float8"
    assert "needs a GPU of NVIDIA's Hopper" in calm.attempt.log("train").read_text()
    for run in runs:
        run.emulates_float8 = True
    assert calm.go() == [0, 0], calm.attempt.log("train").read_text()
    assert stopped.go(Strike("step", "SIGUSR2", nth=5)) == STOPPED
    assert stopped.go() == [0, 0]
    assert stopped.losses == calm.losses and len(calm.losses) == STEPS // 3
    assert "linear layers by torchao" in calm.summary["engine"]["float8"]
    before, after = (
        tensors(each) for each in (Path(calm.spec.model.name), calm.attempt.final_model)
    )
    assert {name: each.shape for name, each in after.items()} == {
        name: each.shape for name, each in before.items()
    }
    assert {each.dtype for each in after.values()} == {torch.bfloat16}


def tensors(model: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(model / "model.safetensors")


def group_elements(run: Run) -> int | None:
    """What the newest checkpoint's manifest says of the optimizer's groups."""
    checkpoint = directories.newest_complete(run.attempt)
    assert checkpoint is not None
    manifest = integrity.read_manifest(checkpoint)
    assert manifest is not None
    return manifest.group_elements


def pickles(directory: Path) -> Iterator[bytes]:
    """Every pickle below a directory: whole files, and the one inside each file of torch.save."""
    for path in sorted(each for each in directory.rglob("*") if each.is_file()):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from (archive.read(n) for n in archive.namelist() if n.endswith(".pkl"))
        elif path.read_bytes().startswith(b"\x80"):
            yield path.read_bytes()


def modules_named(data: bytes) -> set[str]:
    """The modules that loading a pickle may import: every string in it that could name one."""
    strings = (arg for _, arg, _ in pickletools.genops(data) if isinstance(arg, str))
    found = (re.match(r"[A-Za-z_]\w*(\.\w+)*(?=$| )", text) for text in strings)
    return {match.group() for match in found if match is not None}


def of_this_project(modules: set[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] in ("jobspec", "worker")}


@pytest.fixture(scope="module")
def stopped(ranks: Forge, queue: Queue, tiny: Path, calm: Run) -> Run:
    """A run of two ranks that was stopped after five steps."""
    assert calm.spec.train is not None
    run = start(ranks, queue, spec(tiny, "elastic", calm.spec.train.zero_stage))
    assert run.go(Strike("step", "SIGUSR2", nth=5)) == STOPPED
    return run


def test_no_checkpoint_names_a_class_of_this_project(
    stopped: Run, calm: Run, tmp_path: Path
) -> None:
    """A pickled object of ours could not be loaded once its module has another name."""
    torch.save(BatchPlan(1, 1, 1), tmp_path / "ours.pt")
    assert of_this_project(modules_named(*pickles(tmp_path))) == {"worker.launch.plan"}
    found = set[str]()
    for run in (stopped, calm):
        data = list(pickles(run.job.dir))
        assert data
        found = found.union(*map(modules_named, data))
    assert "torch._utils" in found
    assert of_this_project(found) == set()


def test_a_run_goes_on_with_another_number_of_ranks(calm: Run, stopped: Run) -> None:
    run = stopped
    # Killed with all converted but COMPLETE: the state it came from is still there.
    killed = Strike("state, before its manifest", "SIGKILL")
    assert run.go(world=1, convert=[killed]) == [-9]
    assert state_of(run) == "step-5"
    assert run.go(Strike("step", "SIGUSR2", nth=5), world=1) == [75]
    assert state_of(run) == "step-10"
    left = [path.name for path in run.job.attempt(2).checkpoints.iterdir()]
    assert left == []  # half a conversion goes with the other things of earlier attempts
    assert run.go(world=2) == [0, 0]

    assert run.losses.keys() == calm.losses.keys()
    assert max(abs(run.losses[step] - calm.losses[step]) for step in calm.losses) < 1e-5
    found = run.summary["conversions"]
    assert [(each["step"], each["from_ranks"], each["to_ranks"]) for each in found] == [
        (5, 2, 1),
        (10, 1, 2),
    ]
    assert all(each["seconds"] > 0 and each["size"] > 0 for each in found)
