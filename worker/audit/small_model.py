"""A model of a given architecture, with few and narrow layers and random weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobspec.errors import ModelError
from jobspec.models.config import CONFIG, GENERATION_CONFIG

WIDTH = 32
_HEADS = 4
_LAYERS = 2
_WINDOW = 64
_EXPERTS = 4
# By field of config.json, in the spellings of the families; a field that is missing stays so.
_WIDTHS: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), WIDTH),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_ff"), 2 * WIDTH),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head"), _HEADS),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers"), _LAYERS),
    **dict.fromkeys(("head_dim", "global_head_dim"), WIDTH // _HEADS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), _EXPERTS),
    **dict.fromkeys(("sliding_window", "attention_chunk_size"), _WINDOW),
}
_AT_MOST = {"num_experts_per_tok": 2, "max_window_layers": 1, "first_k_dense_replace": 1}
_PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")
_COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "tokenizer*", "*.tiktoken", "*.py")
_WEIGHTS_INDEX = ".index.json"


def make(
    source: Path, target: Path, *, dtype: str, trust_remote_code: bool, seed: int
) -> list[str]:
    """Write a small model with the configuration and the tokenizer of `source`.

    The vocabulary stays as it is. Weights of `source` are not read.

    Args:
        source: a model directory.
        target: a directory, which is created.
        dtype: of the weights.

    Returns:
        What was made smaller, as `field 32 → 2`.

    Raises:
        ModelError: Transformers can't build the model from the smaller configuration.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    target.mkdir(parents=True)
    for file in _files(source):
        shutil.copyfile(file, target / file.name)
    given = transformers.AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    values = given.to_dict()
    text = given.get_text_config().to_dict()
    changes = dict(_smaller(text))
    inner = values.get("text_config")
    values |= {"text_config": inner | changes} if isinstance(inner, dict) else changes
    torch.manual_seed(seed)
    try:
        config = type(given).from_dict(values)
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
        )
    except (ValueError, TypeError, RuntimeError, KeyError, IndexError) as error:
        raise ModelError(
            f"no small `{given.model_type}` can be made: {str(error).splitlines()[0]}",
            file=source / CONFIG,
            hint="audit a spec with another model of this family, or report it",
        ) from error
    model.config.save_pretrained(target)
    model.save_pretrained(target, safe_serialization=True)
    if (source / GENERATION_CONFIG).is_file():
        shutil.copyfile(source / GENERATION_CONFIG, target / GENERATION_CONFIG)
    shown = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_experts")
    changed = [name for name in shown if name in changes and changes[name] != text[name]]
    return [f"{name} {text[name]} → {changes[name]}" for name in changed]


def _files(source: Path) -> Iterator[Path]:
    """The configuration, tokenizer, template and code of a model, without its weights."""
    found = {file for pattern in _COPIED for file in source.glob(pattern) if file.is_file()}
    yield from sorted(file for file in found if not file.name.endswith(_WEIGHTS_INDEX))


def _smaller(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields that change, with their new values."""
    kinds: list[Any] = list(dict.fromkeys(values.get("layer_types") or ()))
    layers = max(_LAYERS, len(kinds))  # one layer of each kind
    for name, value in _WIDTHS.items():
        if isinstance(values.get(name), int) and not isinstance(values[name], bool):
            yield name, value
    for name, most in _AT_MOST.items():
        if isinstance(values.get(name), int):
            yield name, min(values[name], most)
    for name in ("num_hidden_layers", "n_layer", "num_layers"):
        if name in values:
            yield name, layers
    if isinstance(values.get("num_key_value_heads"), int):
        grouped = values["num_key_value_heads"] < (values.get("num_attention_heads") or 0)
        yield "num_key_value_heads", _HEADS // 2 if grouped else _HEADS
    for name in _PER_LAYER:
        if isinstance(values.get(name), list | tuple):
            chosen = kinds if name == "layer_types" else list(values[name])[:layers]
            yield name, (chosen * _LAYERS)[:layers]
