"""Tokenizers and models that cannot be trained are refused before any row is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobspec.errors import ModelError
from jobspec.spec.schema import ModelSpec
from jobspec.storage.layout import RootPaths
from tests.support.models import model_dir
from worker.data.tokenizer import load_tokenizer_facts


def load(model: Path, tmp_path: Path) -> None:
    load_tokenizer_facts(ModelSpec(name=str(model)), RootPaths(tmp_path / "root"))


def settings(model: Path, **changes: str | None) -> None:
    path = model / "tokenizer_config.json"
    merged = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in merged.items() if v is not None}))


def test_neither_an_end_token_nor_a_padding_token(tmp_path: Path) -> None:
    model = model_dir(tmp_path / "m")
    settings(model, eos_token=None)
    with pytest.raises(ModelError, match="neither an end-of-sequence token nor a padding token"):
        load(model, tmp_path)
    settings(model, pad_token="<|im_end|>")
    load(model, tmp_path)


@pytest.mark.parametrize("role", ["eos_token", "pad_token"])
def test_a_special_token_beyond_the_embedding(tmp_path: Path, role: str) -> None:
    model = model_dir(tmp_path / "m", vocab_size=256)  # the special tokens come after 256 bytes
    settings(model, **({"eos_token": "a"} | {role: "<|im_end|>"}))
    for _ in range(2):  # the second time from the cache
        with pytest.raises(ModelError, match=f"its {role} .* but the model embeds 256 tokens"):
            load(model, tmp_path)


@pytest.mark.parametrize("kind", ["clip", "t5", "vit"])
def test_a_model_that_is_no_language_model(tmp_path: Path, kind: str) -> None:
    model = model_dir(tmp_path / "m", model_type=kind)
    with pytest.raises(ModelError, match=f"`{kind}` model is not a causal language model"):
        load(model, tmp_path)
