"""jobspec.models.weights: damaged and missing weights, and LoRA targets, are known at enqueue."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobspec.errors import ModelError, SpecError
from jobspec.models.weights import count_embedded_tokens, tensor_shapes
from tests.support.checks import checked, refusal
from tests.support.models import write_weights

SHAPES = {
    "model.embed_tokens.weight": (8, 4),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.0.mlp.up_proj.weight": (6, 4),
    "model.norm.weight": (4,),
    "lm_head.weight": (8, 4),
}


@pytest.fixture
def weights(place: Path) -> Path:
    path = place / "tiny/model.safetensors"
    write_weights(path, SHAPES)
    return path


def test_the_shapes_are_those_that_safetensors_wrote(tmp_path: Path) -> None:
    import numpy
    from safetensors.numpy import save_file

    arrays = {name: numpy.zeros(shape, "float32") for name, shape in SHAPES.items()}
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert tensor_shapes(tmp_path) == SHAPES


@pytest.mark.parametrize(
    ("tensor", "tokens"),
    [
        ("model.embed_tokens.weight", 9),
        ("model.language_model.embed_tokens.weight", 9),
        ("transformer.wte.weight", 9),
        ("gpt_neox.embed_in.weight", 9),
        ("transformer.word_embeddings.weight", 9),
        ("backbone.embeddings.weight", 9),
        ("model.embed_tokens_per_layer.weight", 7),
        ("transformer.wpe.weight", 7),
    ],
)
def test_the_embedding_says_how_many_tokens_there_are(
    tmp_path: Path, tensor: str, tokens: int
) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 7}')
    assert count_embedded_tokens(tmp_path) == 7, "there are no weights"
    write_weights(tmp_path / "model.safetensors", {tensor: (9, 4), "lm_head.weight": (11, 4)})
    assert count_embedded_tokens(tmp_path) == tokens


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, -1, -4])
def test_truncated_weights(weights: Path, size: int) -> None:
    data = weights.read_bytes()
    weights.write_bytes(data[:size])
    error = refusal()
    assert isinstance(error, ModelError)
    assert "model.safetensors` is damaged" in error.message
    assert error.place == "$.model.name" and "again" in (error.hint or "")


def test_weights_with_bytes_too_many_or_a_damaged_header(weights: Path) -> None:
    data = weights.read_bytes()
    weights.write_bytes(data + b"\0")
    assert "is damaged: it should have" in refusal().message
    weights.write_bytes(data[:8] + b"[" + data[9:])
    assert "its header is not valid" in refusal().message
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 3)  # never downloaded
    assert "is damaged" in refusal().message


def test_a_file_of_the_index_is_missing(weights: Path) -> None:
    names = {"model.norm.weight": "model.safetensors", "lm_head.weight": "model-2.safetensors"}
    index = weights.parent / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    error = refusal()
    assert "lacks 1 of its 2 files of weights: model-2.safetensors" in error.message
    write_weights(weights.parent / "model-2.safetensors", {"lm_head.weight": (8, 4)})
    assert checked()


@pytest.mark.parametrize("targets", ['["q_proj"]', '["q_proj","up_proj"]', '"all-linear"'])
def test_adapters_on_linear_layers(weights: Path, targets: str) -> None:
    assert checked(f'train.lora={{"target_modules": {targets}}}')


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("qproj", "does not exist"),
        ("norm", "does not exist"),
        ("proj", "does not exist"),
        ("lm_head", "cannot be adapted"),
        ("model.lm_head", "cannot be adapted"),
    ],
)
def test_adapters_on_other_modules(weights: Path, target: str, why: str) -> None:
    error = refusal(f'train.lora={{"target_modules": ["q_proj", "{target}"]}}')
    assert isinstance(error, SpecError)
    assert error.place == "$.train.lora.target_modules"
    assert f"`{target}` {why}" in error.message
    assert error.hint == '"all-linear", or some of: q_proj, up_proj'
