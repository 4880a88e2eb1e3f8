"""Small models of many families: few layers, one of each kind, and random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.models import byte_tokenizer
from worker.audit import small_model

FAMILIES = (
    *("llama", "qwen2", "qwen3", "olmo2", "olmo3", "mistral", "phi3", "granite", "gemma2"),
    *("gemma3_text", "gemma3", "qwen3_moe", "mixtral", "gpt2", "gpt_oss"),
)


def described(family: str, directory: Path) -> Path:
    """A directory with a family's default configuration and a tokenizer, without weights."""
    directory.mkdir()
    config = AutoConfig.for_model(family)
    config.get_text_config().vocab_size = 300
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config.get_text_config(), name, 1)
    config.save_pretrained(directory)
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def make(source: Path, target: Path) -> list[str]:
    return small_model.make(source, target, dtype="float32", trust_remote_code=False, seed=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_small_model_of_the_family_can_be_loaded(family: str, tmp_path: Path) -> None:
    source = described(family, tmp_path / family)
    make(source, tmp_path / "small")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    text = model.config.get_text_config()
    given = AutoConfig.from_pretrained(source).get_text_config()
    assert type(text) is type(given)
    kinds = set(getattr(given, "layer_types", None) or ["only"])
    assert text.num_hidden_layers == max(2, len(kinds))
    assert set(getattr(text, "layer_types", None) or ["only"]) == kinds
    grouped = [each.num_attention_heads > (getattr(each, "num_key_value_heads", None) or 10**6)
               for each in (text, given)]  # fmt: skip
    assert grouped[0] == grouped[1], "keys and values are shared as before"
    language = sum(each.numel() for name, each in model.named_parameters() if "vision" not in name)
    assert language < 500_000
    assert (tmp_path / "small" / "tokenizer.json").exists()


def test_weights_of_the_model_are_neither_read_nor_copied(tmp_path: Path) -> None:
    source = described("llama", tmp_path / "llama")
    (source / "model.safetensors").write_bytes(b"not weights")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {}}))
    notes = make(source, tmp_path / "small")
    assert "num_hidden_layers 32 → 2" in notes
    assert not (tmp_path / "small" / "model.safetensors.index.json").exists()
    AutoModelForCausalLM.from_pretrained(tmp_path / "small")
