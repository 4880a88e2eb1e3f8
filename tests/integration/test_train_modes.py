"""What a spec may ask of training: ZeRO stages, packing, adapters; one curve on any devices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from safetensors.numpy import load_file

from jobspec.queue.queue import Job, Queue
from jobspec.records import base as records
from jobspec.records.attempt import End, Result
from jobspec.records.base import State
from jobspec.spec.schema import LoraSpec
from jobspec.storage.layout import AttemptPaths, JobPaths
from tests.support.bundles import differences
from tests.support.nodes import launcher
from tests.support.queues import queue_at
from tests.support.ranks import Forge, Run, start
from tests.support.specs import tiny_spec
from tests.support.workers import drain, ranks_of, rows
from worker.host import identity

pytestmark = pytest.mark.deepspeed

NEVER = 1000  # steps
# Low enough that rounding, which differs between the ways to spread a batch, does not grow in 19
# steps beyond what is compared.
GENTLE: dict[str, Any] = {"num_train_epochs": 1.0, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Queue:
    """One for all, so that rows are prepared once."""
    return queue_at(tmp_path_factory.mktemp("modes"))


def train(
    tiny: Path, queue: Queue, name: str, devices: int = 2, options: Sequence[str] = (), **settings
) -> Job:
    """One short run by a worker; its job."""
    job = queue.enqueue(tiny_spec(tiny, name=name, **GENTLE | settings))
    drain(queue, "--devices", str(devices), *options)
    return queue.job(job.id)


def forged(
    tiny: Path,
    queue: Queue,
    ranks: Forge,
    name: str,
    world: int = 2,
    plain: bool = False,
    nodes: int = 1,
    **settings,
) -> Run:
    """The same by ranks that need no start each: where it's only the curve that is looked at."""
    spec = tiny_spec(tiny, name=name, **GENTLE | settings)
    run = start(ranks, queue, spec, save_every=NEVER)
    run.plain, run.nodes = plain, nodes
    assert run.go(world=world) == [0] * world, run.attempt.log("train").read_text()
    return run


Curves = dict[tuple[str, int], float]


def curves(job: JobPaths) -> Curves:
    """Trained and held-out losses by step."""
    found = rows(job.attempt(1).dir)
    names = ("loss", "eval_loss")
    return {(name, row["step"]): row[name] for row in found for name in names if name in row}


@pytest.fixture(scope="module")
def one_by_eight(tiny: Path, queue: Queue, ranks: Forge) -> Curves:
    """The losses by step on one device, one row at a time."""
    run = forged(tiny, queue, ranks, "one", world=1, per_device_train_batch_size=1)
    found = curves(run.job)
    assert [name for name, _ in found].count("eval_loss") == 2
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"per_device_train_batch_size": 1},
        {"per_device_train_batch_size": 2},
        {"per_device_train_batch_size": 1, "packing": True},
        {"per_device_train_batch_size": 2, "zero_stage": 3},
        {"per_device_train_batch_size": 4, "zero_stage": 0},
        {"per_device_train_batch_size": 4, "gradient_checkpointing": True},
        {"per_device_train_batch_size": 2, "offload": "optimizer"},
        {"per_device_train_batch_size": 2, "sequence_parallel": 2, "zero_stage": 3},
    ],
    ids=lambda settings: "-".join(f"{key}={value}" for key, value in settings.items()),
)
def test_the_curve_does_not_depend_on_how_a_batch_is_spread(
    tiny: Path, queue: Queue, ranks: Forge, one_by_eight: Curves, settings: dict
) -> None:
    name = "-".join(f"{value}" for value in settings.values()).lower()
    run = forged(tiny, queue, ranks, f"spread-{name}", **settings)
    found = curves(run.job)
    assert found.keys() == one_by_eight.keys()
    assert max(abs(found[step] - one_by_eight[step]) for step in found) < 1e-6
    assert run.summary["engine"]["zero_stage"] == settings.get("zero_stage", 2)
    assert run.summary["engine"]["class"] == "DeepSpeedEngine"
    assert 0.9 < run.summary["memory"]["ratio"] < 1.1, run.summary["memory"]
    weights = load_file(run.attempt.final_model / "model.safetensors")
    untrained = load_file(tiny / "model" / "model.safetensors")
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in untrained.items()
    }
    assert any((weights[name] != untrained[name]).any() for name in weights)


SWITCHES = {"packing": "auto", "gradient_checkpointing": "auto"}
FIFTY_STEPS: dict[str, Any] = {"num_train_epochs": 2.7, "learning_rate": 1e-4}


@pytest.mark.parametrize(
    ("dtype", "most"), [("float32", 1e-6), ("bfloat16", 1e-3)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize("world", [1, 2])
def test_what_new_specs_say_changes_no_loss_in_fifty_steps(
    tiny: Path, queue: Queue, ranks: Forge, world: int, dtype: str, most: float
) -> None:
    found: list[Curves] = []
    for name, switches in (("plain", {}), ("auto", SWITCHES)):
        spec = tiny_spec(tiny, name=f"{name}-{world}-{dtype}", **FIFTY_STEPS | switches)
        model = msgspec.structs.replace(spec.model, dtype=dtype)
        spec = msgspec.structs.replace(spec, model=model)
        run = start(ranks, queue, spec, save_every=NEVER)
        assert run.go(world=world) == [0] * world, run.attempt.log("train").read_text()
        found.append(curves(run.job))
    plain, auto = found
    assert plain.keys() == auto.keys() and len(plain) > 50
    assert max(abs(auto[step] / plain[step] - 1) for step in plain) < most
    assert run.summary["engine"]["micro_batch_tokens"] == 2048


@pytest.mark.parametrize("world", [1, 2])
def test_what_saves_memory_changes_no_loss(
    tiny: Path, queue: Queue, ranks: Forge, one_by_eight: Curves, world: int
) -> None:
    """Against DeepSpeed's own gradients and groups, with several micro-batches in each step."""
    settings = {"per_device_train_batch_size": 1}
    run = forged(tiny, queue, ranks, f"plain-{world}", world, plain=True, **settings)
    assert run.summary["engine"]["optimizer"] == "DeepSpeedZeroOptimizer"
    found = curves(run.job)
    assert max(abs(found[step] - one_by_eight[step]) for step in one_by_eight) < 1e-6


def check_records(attempt: AttemptPaths) -> None:
    """What was measured while it ran, and where its rows came from."""
    steps = [row for row in rows(attempt.dir) if "loss" in row]
    for row in steps:
        assert row["mfu"] is None and row["hfu"] is None, "no peak is known of a CPU"
        assert row["tokens_per_second_per_device"] == row["tokens_per_second"] / 2
        assert 0 <= row["data_wait_share"] < 1
        assert row["num_tokens"] > row["trained_tokens"] > 0
    peaks = [row["peak_memory_gib"] for row in steps]
    # The kernel counts pages by processor and adds them up now and then: proc_pid_status(5).
    assert all(later > peak - 0.01 for peak, later in pairwise(peaks))
    assert 0.1 < peaks[0] < 4.0
    manifest = msgspec.json.decode(attempt.manifest.read_bytes())
    prepared = msgspec.json.decode(attempt.done("prepare").read_bytes())
    assert manifest["inputs"]["template_sha256"] == prepared["template_sha256"]
    engine = record_of(attempt)["engine"]
    assert manifest["deepspeed"] == engine["deepspeed_config"]
    assert manifest["engine"]["attention"] == engine["attention"] == "rows by sdpa"


def record_of(attempt: AttemptPaths) -> dict:
    return msgspec.json.decode(attempt.done("train").read_bytes())


SHARED = {"per_device_train_batch_size": 1, "packing": True, "sequence_parallel": 2}


@pytest.fixture(scope="module")
def shared(tiny: Path, queue: Queue) -> Job:
    """A run on one node whose two devices share every row's tokens."""
    job = train(tiny, queue, "shared", **SHARED)
    assert job.state is State.SUCCEEDED
    return job


def test_devices_that_share_rows_give_the_same_curve(shared: Job, one_by_eight: Curves) -> None:
    found = curves(shared.paths)
    assert found.keys() == one_by_eight.keys()
    assert max(abs(found[step] - one_by_eight[step]) for step in found) < 1e-6


def test_an_attempt_records_its_rates_its_memory_and_where_its_rows_came_from(shared: Job) -> None:
    check_records(shared.paths.attempt(1))
    result = msgspec.json.decode(shared.paths.result.read_bytes(), type=Result)
    train = msgspec.to_builtins(result.train)
    assert train["engine"]["class"] == "DeepSpeedEngine"
    assert 0.9 < train["memory"]["ratio"] < 1.1, train["memory"]


def test_two_nodes_give_one_nodes_curve_bit_for_bit(
    tiny: Path, tmp_path: Path, queue: Queue, shared: Job
) -> None:
    options = ("--nodes", "2", "--launcher", launcher(tmp_path))
    job = train(tiny, queue, "nodes", devices=1, options=options, **SHARED)
    assert job.state is State.SUCCEEDED
    assert curves(job.paths) == curves(shared.paths)
    attempt = job.paths.attempt(1)
    assert differences(job, tmp_path) == []
    plan = msgspec.json.decode(attempt.manifest.read_bytes())["plan"]
    assert (plan["nodes"], plan["world_size"], plan["gradient_accumulation_steps"]) == (2, 2, 8)
    written = [row["step"] for row in rows(attempt.dir) if "loss" in row]
    assert written == sorted(set(written)), "a row a step, by rank 0 alone"
    assert attempt.log("train", node=1).exists()
    assert not any("slowest_host" in row for row in rows(attempt.dir)), "they share every row"
    assert not ranks_of(attempt.dir)


def test_measuring_which_node_is_slow_changes_no_bit(
    tiny: Path, queue: Queue, ranks: Forge
) -> None:
    one_row: dict[str, Any] = {"per_device_train_batch_size": 1}
    one = forged(tiny, queue, ranks, "one-node", **one_row)
    two = forged(tiny, queue, ranks, "two-nodes", nodes=2, **one_row)
    assert curves(two.job) == curves(one.job)
    weights = [(run.attempt.final_model / "model.safetensors").read_bytes() for run in (one, two)]
    assert weights[0] == weights[1]
    measured = [[row for row in rows(run.attempt.dir) if "loss" in row] for run in (one, two)]
    assert not any("slowest_host" in row for row in measured[0])
    assert all(row["slowest_host_share"] > 0 for row in measured[1])
    assert {row["slowest_host"] for row in measured[1]} == {identity.short_host()}


def test_an_adapter_is_kept_and_merged_for_scoring(tiny: Path, queue: Queue) -> None:
    job = train(tiny, queue, "adapter", lora=LoraSpec(r=8, alpha=16))
    assert job.state is State.SUCCEEDED
    adapter = load_file(job.paths.attempt(1).dir / "adapter" / "adapter_model.safetensors")
    assert all(".lora_A." in name or ".lora_B." in name for name in adapter)
    merged = load_file(job.paths.final_model / "model.safetensors")
    untrained = load_file(tiny / "model" / "model.safetensors")
    assert merged.keys() == untrained.keys()
    name = "model.layers.0.mlp.up_proj.weight"
    scale = 16.0 / 8
    prefix = "base_model.model.model.layers.0.mlp.up_proj"
    change = adapter[f"{prefix}.lora_B.weight"] @ adapter[f"{prefix}.lora_A.weight"]
    assert abs(merged[name] - untrained[name] - scale * change).max() < 1e-5
    assert abs(change).max() > 0


def test_an_adapter_that_fits_nowhere_is_refused(tiny: Path, queue: Queue) -> None:
    job = train(tiny, queue, "nowhere", devices=1, lora=LoraSpec(target_modules=("no_such_layer",)))
    assert job.state is State.FAILED
    end = records.read(job.paths.attempt(1).end, End)
    assert end is not None
    assert "$.train.lora.target_modules" in end.message
