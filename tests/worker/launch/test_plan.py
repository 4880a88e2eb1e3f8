from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from jobspec.errors import SpecError
from jobspec.records import phases as records
from jobspec.spec.schema import JobSpec
from tests.support.specs import train_spec
from worker import phases
from worker.host.devices import WorkerDevices
from worker.launch.environment import phase_environment
from worker.launch.plan import BatchPlan, plan_batch
from worker.training.deepspeed_config import deepspeed_config


def spec(gpus: int | None = None, dtype: str = "bfloat16", **train) -> JobSpec:
    return train_spec("m", model__dtype=dtype, train=train, resources__gpus=gpus)


@pytest.mark.parametrize(
    ("devices", "settings", "planned"),
    [
        (1, {}, BatchPlan(1, 1, 8)),
        (4, {}, BatchPlan(4, 1, 2)),
        (3, {}, BatchPlan(2, 1, 4)),
        (16, {}, BatchPlan(8, 1, 1)),
        (4, {"per_device_train_batch_size": 4}, BatchPlan(2, 4, 1)),
        (4, {"global_batch_size": 12, "per_device_train_batch_size": 2}, BatchPlan(3, 2, 2)),
    ],
)
def test_the_global_batch_is_fixed_and_accumulation_follows(devices, settings, planned):
    plan = plan_batch(spec(**settings), WorkerDevices(devices))
    assert plan == planned
    total = plan.world * plan.micro * plan.accumulation
    assert total == settings.get("global_batch_size", 8)


def test_devices_that_do_not_divide_the_batch_are_refused_by_name():
    with pytest.raises(SpecError, match="`3` devices do not divide") as caught:
        plan_batch(spec(gpus=3), WorkerDevices(4))
    assert caught.value.place == "$.resources.gpus"
    with pytest.raises(SpecError, match="needs 8 devices, but this worker has 4"):
        plan_batch(spec(gpus=8), WorkerDevices(4))


@pytest.mark.parametrize(
    ("nodes", "count", "gpus", "settings", "planned"),
    [
        (2, 4, None, {}, BatchPlan(8, 1, 1, nodes=2)),
        (2, 4, 8, {"global_batch_size": 16}, BatchPlan(8, 1, 2, nodes=2)),
        (2, 4, 4, {}, BatchPlan(4, 1, 2, nodes=1)),  # on as few nodes as hold them
        (2, 4, 6, {"global_batch_size": 12}, BatchPlan(6, 1, 2, nodes=2)),
        (3, 2, None, {}, BatchPlan(4, 1, 2, nodes=2)),
        (
            2,
            3,
            None,
            {"global_batch_size": 5},
            BatchPlan(1, 1, 5, nodes=1),
        ),  # 5 can't be spread evenly
        (1, 8, None, {"sequence_parallel": 4}, BatchPlan(8, 1, 4)),
        (1, 7, None, {"sequence_parallel": 2}, BatchPlan(4, 1, 4)),
        (2, 2, None, {"sequence_parallel": 4}, BatchPlan(4, 1, 8, nodes=2)),
        (1, 6, 6, {"sequence_parallel": 2, "global_batch_size": 6}, BatchPlan(6, 1, 2)),
    ],
)
def test_nodes_and_groups_of_devices_share_the_batch(nodes, count, gpus, settings, planned):
    plan = plan_batch(spec(gpus, **settings), WorkerDevices(count, nodes=nodes))
    assert plan == planned
    groups = plan.world // settings.get("sequence_parallel", 1)
    assert groups * plan.micro * plan.accumulation == settings.get("global_batch_size", 8)


@pytest.mark.parametrize(
    ("nodes", "count", "gpus", "settings", "place", "words"),
    [
        (2, 4, 7, {}, "resources.gpus", "`7` devices can't be spread evenly over 2 × 4"),
        (2, 4, 9, {}, "resources.gpus", "needs 9 devices, but this worker has 8"),
        (1, 2, None, {"sequence_parallel": 4}, "train.sequence_parallel", "groups of 4 devices"),
        (
            1,
            8,
            6,
            {"sequence_parallel": 4},
            "train.sequence_parallel",
            "6 devices can't be divided into groups of 4",
        ),
        (1, 8, 6, {"sequence_parallel": 2}, "resources.gpus", "8 rows a step .* 2 devices per row"),
    ],
)
def test_what_does_not_come_out_even_is_refused(nodes, count, gpus, settings, place, words):
    with pytest.raises(SpecError, match=words) as caught:
        plan_batch(spec(gpus, **settings), WorkerDevices(count, nodes=nodes))
    assert caught.value.place == f"$.{place}"


def test_fewer_rows_after_memory_ran_out_keep_the_batch():
    settings = {"per_device_train_batch_size": 4}
    assert plan_batch(spec(**settings), WorkerDevices(2), max_rows=2) == BatchPlan(2, 2, 2)
    odd = {"global_batch_size": 9, "per_device_train_batch_size": 9}
    assert plan_batch(spec(**odd), WorkerDevices(1), max_rows=4) == BatchPlan(1, 3, 3)


def test_deepspeeds_configuration_comes_from_the_spec():
    config = deepspeed_config(spec(zero_stage=3, offload="all"), 2, on_gpu=True)
    zero = config["zero_optimization"]
    assert zero["stage"] == 3
    assert zero["stage3_gather_16bit_weights_on_model_save"] is True
    assert zero["offload_param"] == zero["offload_optimizer"]
    assert config["bf16"] == {"enabled": True}
    assert config["train_micro_batch_size_per_gpu"] == 2
    plain = deepspeed_config(spec(dtype="float32", zero_stage=0), 1, on_gpu=False)
    assert plain["bf16"] == {"enabled": False}
    assert plain["zero_optimization"] == {"stage": 0}


def test_every_phase_that_can_be_started_is_named_to_those_who_read():
    assert tuple(phase.info for phase in phases.PHASES) == records.PHASES
    for number, phase in enumerate(phases.PHASES):
        assert importlib.util.find_spec(phase.module) is not None
        assert set(phase.inputs) <= set(records.PHASES[:number])


def test_a_phases_environment_is_scrubbed_and_its_caches_are_under_the_root(tmp_path: Path):
    base = {
        "PATH": "/bin",
        "ACCELERATE_USE_DEEPSPEED": "true",
        "RANK": "3",
        "MASTER_PORT": "1",
        "WANDB_API_KEY": "secret",
        "HF_TOKEN": "secret",
        "HF_HOME": "/home/me/.cache/huggingface",
    }
    tmp = tmp_path / "t"
    env = phase_environment(base, root=tmp_path, tmp=tmp, devices=WorkerDevices(2), ranks=2)
    assert env["PATH"] == "/bin"
    assert not env.keys() & {"ACCELERATE_USE_DEEPSPEED", "RANK", "MASTER_PORT"}
    assert "secret" not in env.values()
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME"):
        assert env[name].startswith(str(tmp_path / "cache"))
    for name in ("TMPDIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert env[name].startswith(str(tmp))
    assert env["DS_ACCELERATOR"] == "cpu"
    assert env["HF_HUB_OFFLINE"] == "1"
    assert "PYTORCH_ALLOC_CONF" not in env


@pytest.mark.parametrize(
    ("set_by_user", "allocator"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, None),
        ({"PYTORCH_HIP_ALLOC_CONF": ""}, None),
    ],
)
def test_on_gpus_the_allocators_segments_can_grow(
    tmp_path: Path, set_by_user: dict[str, str], allocator: str | None
) -> None:
    two = WorkerDevices(2, kind="cuda")
    env = phase_environment(set_by_user, root=tmp_path, tmp=tmp_path, devices=two)
    assert env.get("PYTORCH_ALLOC_CONF") == allocator
    assert set_by_user.items() <= env.items()
