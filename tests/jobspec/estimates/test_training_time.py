"""What `validate` says that training will take: memory, steps, hours; what can't fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.errors import JobspecError, SpecError
from jobspec.estimates import memory, training_time
from jobspec.estimates.memory import GIB, Setting
from jobspec.models import config as model_config
from jobspec.models import decoder_shape, devices
from jobspec.models.decoder_shape import DecoderShape
from jobspec.spec import identity
from jobspec.spec.schema import JobSpec, LoraSpec, TrainSpec
from tests.support.commands import jobspec, jobspec_json
from tests.support.models import model_dir
from tests.support.prepared import assistant, user, write_rows
from tests.support.specs import train_spec

QWEN, OLMO = "Qwen/Qwen3-8B", "allenai/Olmo-3-7B-Think"


def known(model: str) -> DecoderShape:
    found = decoder_shape.known(model)
    assert found is not None
    return found


def gib(model: DecoderShape, devices: int = 1, dtype: str = "bfloat16", **train: Any) -> float:
    """GiB a device on GPUs, for one row of 8,192 tokens a micro-batch."""
    settings = TrainSpec(**train)
    return memory.predict(
        model, Setting(train=settings, dtype=dtype, devices=devices, tokens=8192)
    ).total


def test_float8_takes_copies_that_come_and_go_and_the_same_states() -> None:
    def peak(**train: Any) -> float:
        setting = Setting(train=TrainSpec(**train), dtype="bfloat16", devices=1, tokens=32768)
        return memory.predict(known(OLMO), setting).total

    factor = 32768 * known(OLMO).intermediate / GIB
    compiled = {"torch_compile": True}
    assert peak(precision="float8") - peak() == pytest.approx(9 * factor)
    assert peak(precision="float8", **compiled) - peak(**compiled) == pytest.approx(2 * factor)


@pytest.mark.parametrize("name", devices.DEVICES)
def test_float8_is_refused_on_devices_older_than_hopper(name: str, tmp_path: Path) -> None:
    spec = train_spec(OLMO, train={"precision": "float8", "optim": "adamw_8bit"})
    device = devices.device(name)

    def estimate() -> training_time.TrainingEstimate | None:
        return training_time.estimate(spec, tmp_path, device, 4, None)

    if name in ("a100-40", "a100-80", "l40s", "a40"):
        with pytest.raises(SpecError, match=f"Hopper generation .* not {device.name}") as caught:
            estimate()
        assert caught.value.place == "$.train.precision" and caught.value.hint
    else:
        assert estimate() is not None


def test_the_known_models_have_the_sizes_they_are_called_by() -> None:
    assert known(QWEN).parameters == pytest.approx(8.19e9, rel=0.01)
    assert known(OLMO).parameters == pytest.approx(7.3e9, rel=0.01)
    assert known(OLMO).windows.count(None) == 8


@pytest.mark.parametrize("family", ["Olmo3", "Qwen3", "Llama", "Gemma", "Mistral"])
def test_a_config_tells_the_models_size(family: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    config = getattr(transformers, f"{family}Config")(
        vocab_size=512, hidden_size=96, intermediate_size=160, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=24,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = getattr(transformers, f"{family}ForCausalLM")(config)
    found = model_config.read(tmp_path).shape
    assert found is not None
    assert found.parameters == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.01)


def test_a_family_that_is_not_known_has_no_shape() -> None:
    assert decoder_shape.of({"model_type": "mixtral", "num_hidden_layers": 2}) is None
    assert decoder_shape.of({"model_type": "llama"}) is None


def test_one_process_takes_bytes_for_each_weight() -> None:
    """In bf16, at little activation: the optimizer's step adds little, group after group."""
    model, short = known(QWEN), 8
    for optim, expected in (("adamw_torch_fused", 16.46), ("adamw_torch", 16.52)):
        setting = Setting(train=TrainSpec(optim=optim), dtype="bfloat16", devices=1, tokens=short)
        found = memory.predict(model, setting)
        assert found.total * GIB / model.parameters == pytest.approx(expected, rel=0.001)
        steady = (found.weights + found.states) * GIB / model.parameters
        assert steady == pytest.approx(16.4, rel=0.03)
    setting = msgspec.structs.replace(setting, train=TrainSpec(zero_stage=3))
    found = memory.predict(model, setting)
    steady = (found.weights + found.states) * GIB / model.parameters
    assert steady == pytest.approx(18.5, rel=0.02)


def test_more_devices_less_each_and_stages_in_their_order() -> None:
    model = known(QWEN)
    sizes = [gib(model, devices, zero_stage=2) for devices in (1, 2, 4, 8)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 2.5 * sizes[-1]
    assert gib(model, 8, zero_stage=3) < gib(model, 8, zero_stage=2) < gib(model, 8, zero_stage=0)
    assert gib(model, 4, offload="optimizer") < gib(model, 4)
    assert gib(model, 1, lora=LoraSpec()) < 0.3 * gib(model, 1)
    assert gib(model, 8, gradient_checkpointing=False) > 2 * gib(model, 8)
    assert gib(model, 1, dtype="float32") > gib(model, 1)


def test_full_tuning_of_eight_billion_fits_one_card_of_141_gb() -> None:
    """Rows of 8,192 tokens, float32 master weights, nothing offloaded."""
    usable = devices.device("h200").usable_gib
    assert gib(known(QWEN)) == pytest.approx(129.0, abs=0.1) and gib(known(QWEN)) < usable
    assert gib(known(OLMO)) == pytest.approx(114.3, abs=0.1)
    assert gib(known(OLMO)) > devices.device("h100-94").usable_gib


def test_olmo_3_7b_with_moments_in_8_bits_fits_one_card_of_80_gb() -> None:
    usable = devices.device("h100-80").usable_gib
    setting = Setting(train=TrainSpec(), dtype="bfloat16", devices=1, tokens=8192)
    assert gib(known(OLMO), optim="adamw_8bit") == pytest.approx(73.7, abs=0.1)
    assert 'train.optim="adamw_8bit"' in memory.fitting(known(OLMO), setting, usable)


def test_eight_billion_fit_four_cards_of_94_gb() -> None:
    assert gib(known(QWEN), 4) < devices.device("h100-94").usable_gib


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(JobspecError, match="`h1000` is no device"):
        devices.device("h1000")


# the command


def written(tmp_path: Path, made: JobSpec) -> Path:
    path = tmp_path / "spec.json"
    path.write_bytes(identity.canonical(made))
    return path


def of_matrix(tmp_path: Path, model: str = QWEN, **changes: Any) -> Path:
    rows = [{"messages": [user(f"{n}?"), assistant("<think>n</think> 1")]} for n in range(9)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    made = train_spec(Path(model), data, **{"train": {"max_length": 8192}, **changes})
    return written(tmp_path, made)


def test_what_cannot_fit_is_refused_with_what_would(tmp_path: Path) -> None:
    file, root = of_matrix(tmp_path, model=QWEN), tmp_path / "root"
    args = ("validate", file, "--no-row-check", "--root", root, "--device", "h100-94")
    said = jobspec(*args, code=1).stderr
    assert "training needs 129.0 GiB on one H100, which has 89.3" in said
    assert f"{file}, $.train" in said
    assert "would fit: --gpus 2" in said and 'train.lora={"r": 16}' in said
    (one,) = jobspec_json(*args, "--gpus", "4")["specs"]
    told = one["training"]
    assert (told["gpus"], told["memory_gib"] < told["usable_gib"]) == (4, True)
    assert told["hours"] is None, "nothing is said of hours without rows"


def test_a_model_of_unknown_size_is_not_guessed(tmp_path: Path) -> None:
    file = of_matrix(tmp_path, model="org/unheard-of")
    args = ("validate", file, "--no-row-check", "--root", tmp_path / "r", "--device", "a100-80")
    assert "can't be predicted" in jobspec(*args).stderr


def test_gpus_without_a_device_is_a_mistake_in_usage(tmp_path: Path) -> None:
    jobspec("validate", of_matrix(tmp_path), "--gpus", "4", code=2)


SMALL = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4,
}  # fmt: skip


def test_steps_passes_and_hours_come_from_the_rows(tmp_path: Path) -> None:
    model = model_dir(tmp_path / "model", **SMALL)
    rows = [{"messages": [user("?"), assistant("1" * 100)]} for _ in range(40)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    train = {
        "max_length": 512, "num_train_epochs": 3, "global_batch_size": 8,
        "per_device_train_batch_size": 2,
    }  # fmt: skip
    made = train_spec(model, data, train=train, data__eval_split_ratio=0.0, eval=None)
    args = ("validate", written(tmp_path, made), "--root", tmp_path / "root", "--device", "a40")
    (one,) = jobspec_json(*args)["specs"]
    assert one["steps"] == {"optimizer_steps": 15, "passes": 20, "packed_passes": 10}
    told = one["training"]
    assert told["tokens"] == 3 * one["rows"]["train"]["tokens"]
    assert told["assumed_mfu"] == training_time.ASSUMED_MFU
    assert told["hours"] == pytest.approx(told["tokens"] / told["tokens_per_second"] / 3600)
    said = jobspec(*args).stderr
    assert "15 optimizer steps; on one device an epoch is 20 micro-batches, 10 with packing" in said
    assert "assuming 35% MFU" in said


def test_the_choices_of_auto_are_told_with_the_memory_they_take(tmp_path: Path) -> None:
    auto = {"max_length": 8192, "packing": "auto", "gradient_checkpointing": "auto"}
    file = of_matrix(tmp_path, model=QWEN, train=auto)
    args = ("validate", file, "--no-row-check", "--root", tmp_path / "root", "--gpus", "4")
    told = {}
    for device in ("h100-80", "b200"):
        (one,) = jobspec_json(*args, "--device", device)["specs"]
        told[device] = one["training"]["micro_batches"]
        assert one["training"]["memory_gib"] < one["training"]["usable_gib"]
    assert told["b200"]["recomputed_layers"] < told["h100-80"]["recomputed_layers"] <= 36
    said = jobspec(*args, "--device", "b200").stderr
    assert f"recomputes {told['b200']['recomputed_layers']} of 36 layers, micro-batches of" in said


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("Qwen/Qwen3-0.6B", 0.6), ("Qwen/Qwen3-1.7B", 1.7), ("Qwen/Qwen3-4B", 4.0),
        ("Qwen/Qwen3-8B", 8.2), ("Qwen/Qwen3-14B", 14.8), ("Qwen/Qwen3-32B", 32.8),
        ("Qwen/Qwen3-14B-Base", 14.8), ("allenai/Olmo-3-1025-7B", 7.3),
        ("allenai/Olmo-3-7B-Instruct", 7.3), ("allenai/Olmo-3-32B-Think", 32.2),
    ],
)  # fmt: skip
def test_known_models_have_the_parameters_of_their_model_cards(model: str, billions: float) -> None:
    shape = decoder_shape.known(model)
    assert shape is not None
    assert round(shape.parameters / 1e9, 1) == billions
