"""Tokenizers and models that cannot be trained are refused before any row is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobspec.errors import ModelError
from jobspec.spec.schema import ModelSpec
from jobspec.storage.layout import RootPaths
from tests.support.models import SPECIAL, byte_tokenizer, model_dir, write_weights
from tests.support.prepared import assistant, sums, user, write_rows
from tests.support.specs import train_spec
from worker.data.pipeline import prepare
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


def test_tokens_beyond_the_embedding_that_no_row_has(tmp_path: Path) -> None:
    """As in Gemma 3 1B, whose tokenizer has a token for images and whose embedding has not."""
    special = (*SPECIAL, "<image>")
    model = model_dir(tmp_path / "m", vocab_size=256 + len(SPECIAL))
    byte_tokenizer(special).save(str(model / "tokenizer.json"))
    settings(model, image_token="<image>")
    data = write_rows(tmp_path / "rows.jsonl", sums(4))
    assert prepare(train_spec(model, data), RootPaths(tmp_path / "root")).rows_in == 4


@pytest.mark.parametrize(
    ("extra", "turn", "weights"), [("<extra>", 0, True), ("banana", 1, True), ("banana", 1, False)]
)
def test_a_row_with_a_token_beyond_the_embedding(
    tmp_path: Path, extra: str, turn: int, weights: bool
) -> None:
    tokens, embedded, text = (*SPECIAL, extra), 256 + len(SPECIAL), f"one {extra}s"
    # The weights count: config.json may state less than the embedding has.
    model = model_dir(tmp_path / "m", vocab_size=embedded - 2 * weights)
    byte_tokenizer(tokens).save(str(model / "tokenizer.json"))
    if weights:
        write_weights(model / "model.safetensors", {"model.embed_tokens.weight": (embedded, 2)})
    turns = [user("a"), assistant("<think>b</think>c")]
    turns[turn]["content"] += text
    rows = [*sums(2), {"messages": turns}, *sums(2)]
    spec = train_spec(model, write_rows(tmp_path / "rows.jsonl", rows), data__max_dropped_frac=1)
    for _ in range(2):  # the second time from the cache
        with pytest.raises(ModelError) as caught:
            prepare(spec, RootPaths(tmp_path / "root"))
        assert caught.value.place == "row 3"
        assert caught.value.file == str(tmp_path / "rows.jsonl")
        assert f"`{tokens[-1]}` has the id {embedded}, but" in caught.value.message


@pytest.mark.parametrize("kind", ["clip", "t5", "vit"])
def test_a_model_that_is_no_language_model(tmp_path: Path, kind: str) -> None:
    model = model_dir(tmp_path / "m", model_type=kind)
    with pytest.raises(ModelError, match=f"`{kind}` model is not a causal language model"):
        load(model, tmp_path)
