"""jobspec.checks.model: the model a spec names, and what its config.json rules out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobspec.errors import ModelError, SpecError
from tests.support.checks import checked, refusal
from tests.support.models import write_weights


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "../nowhere"])
def test_an_unknown_model_path(place: Path, model: str) -> None:
    error = refusal(model=model)
    assert isinstance(error, ModelError)
    assert error.place == "$.model.name" and "does not exist" in error.message and error.hint


def test_weights_as_pickles_alone(place: Path) -> None:
    (place / "tiny/pytorch_model.bin").touch()
    error = refusal()
    assert isinstance(error, ModelError)
    assert "pickles (`pytorch_model.bin`)" in error.message
    assert "safetensors" in (error.hint or "")
    assert (error.file, error.place) == ("specs/s.json", "$.model.name")
    write_weights(place / "tiny/model.safetensors", {})
    checked()


def test_a_directory_that_is_no_model(place: Path) -> None:
    (place / "tiny/config.json").unlink()
    assert "config.json does not exist" in refusal().message
    (place / "tiny/config.json").write_text("{")
    assert "config.json is not valid JSON" in refusal().message


def test_training_beyond_the_context(place: Path) -> None:
    error = refusal("train.max_length=4097")
    assert error.place == "$.train.max_length" and "4096 tokens" in error.message
    assert checked("train.max_length=4096")


def test_generation_beyond_the_context(place: Path) -> None:
    error = refusal("eval.max_gen_toks=4096")
    assert error.place == "$.eval.max_gen_toks" and "4096 tokens" in error.message
    error = refusal("eval.overrides.aime25.max_gen_toks=5000")
    assert "of aime25" in error.message


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({"max_position_embeddings": 40960}, 40960),
        ({"text_config": {"max_position_embeddings": 8192}}, 8192),
        (
            {
                "max_position_embeddings": 40960,
                "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        ({"max_position_embeddings": 65536, "rope_parameters": {"rope_theta": 1e6}}, 65536),
    ],
)
def test_context_lengths_of_real_configs(
    place: Path, config: dict[str, object], context: int
) -> None:
    (place / "tiny/config.json").write_text(json.dumps(config))
    assert checked(f"train.max_length={context}")
    assert refusal(f"train.max_length={context + 1}").place == "$.train.max_length"


def test_the_context_of_a_fetched_model(place: Path) -> None:
    snapshot = place / "root/cache/hub/models--Qwen--Qwen3-8B/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"max_position_embeddings": 1000}')
    (snapshot / "tokenizer.json").touch()
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("abc")
    assert refusal("train.max_length=1001", model="Qwen/Qwen3-8B").place == "$.train.max_length"


def test_a_config_without_a_context_is_a_warning(place: Path) -> None:
    (place / "tiny/config.json").write_text("{}")
    assert any("context" in warning for warning in checked().warnings)


def test_code_of_the_model_is_a_warning(place: Path) -> None:
    assert any("code" in warning for warning in checked("model.trust_remote_code=true").warnings)
    assert not any(
        "code" in warning for warning in checked("model.trust_remote_code=false").warnings
    )


@pytest.mark.parametrize(
    ("degree", "heads", "keys", "even"),
    [
        (4, 32, 8, True),
        (16, 32, 8, True),
        (8, 12, 4, False),
        (6, 12, 4, False),
        (3, 12, None, True),
    ],
)
def test_devices_must_share_the_models_heads_evenly(
    place: Path, degree: int, heads: int, keys: int | None, even: bool
) -> None:
    config = {"max_position_embeddings": 4096, "num_attention_heads": heads}
    config |= {} if keys is None else {"num_key_value_heads": keys}
    (place / "tiny/config.json").write_text(json.dumps(config))
    setting = f"train.sequence_parallel={degree}"
    if even:
        assert checked(setting).spec.train is not None
        return
    error = refusal(setting)
    assert (error.file, error.place) == ("specs/s.json", "$.train.sequence_parallel")
    assert f"`{degree}` devices can't evenly share {heads} query heads" in error.message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("resources.gpus=6",), "groups of 4 devices can't be made of `resources.gpus` 6"),
        (('model.attn_implementation="sdpa"',), "`sdpa` attention sees one device's tokens alone"),
    ],
)
def test_rows_are_not_shared_by_what_can_not(
    place: Path, settings: tuple[str, ...], words: str
) -> None:
    error = refusal("train.sequence_parallel=4", *settings)
    assert error.place == "$.train.sequence_parallel"
    assert words in error.message and error.hint


@pytest.mark.parametrize(
    "experts", [{"num_local_experts": 8}, {"text_config": {"n_routed_experts": 64}}]
)
def test_a_mixture_of_experts_is_not_trained_in_float8(
    place: Path, experts: dict[str, object]
) -> None:
    path = place / "tiny/config.json"
    config = json.loads(path.read_text())
    assert about_experts(place, "train.precision=float8", config) is None
    assert about_experts(place, "train.precision=float8", config | {"num_experts": 1}) is None
    assert about_experts(place, "train.precision=null", config | experts) is None
    message = about_experts(place, "train.precision=float8", config | experts)
    assert message == "`float8` can't train a mixture of experts, which get few tokens each"


def about_experts(place: Path, setting: str, config: dict[str, object]) -> str | None:
    """The refusal of a spec with this setting, for a model with this config.json."""
    (place / "tiny/config.json").write_text(json.dumps(config))
    try:
        checked(setting)
    except SpecError as error:
        assert error.place == "$.train.precision" and error.hint
        return error.message
    return None
