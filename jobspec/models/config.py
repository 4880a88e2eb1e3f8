"""The one reader of a model's config.json, and of generation_config.json beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from jobspec.errors import ModelError
from jobspec.models import decoder_shape
from jobspec.models.decoder_shape import DecoderShape

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len")


class ModelConfig(msgspec.Struct, frozen=True):
    """What config.json says.

    Attributes:
        values: its fields; those of a `text_config` take precedence.
        outer: its fields as they are.
    """

    values: Mapping[str, Any]
    outer: Mapping[str, Any]

    @property
    def context_length(self) -> int | None:
        """The longest sequence in tokens, prompt and answer together; None if it is not stated.

        It is the number of positions, or more where RoPE scaling stretches a shorter original.
        """
        lengths = [n for name in _CONTEXT_FIELDS if (n := self._integer(name)) is not None]
        scaling = self.values.get("rope_scaling") or self.values.get("rope_parameters")
        if lengths and isinstance(scaling, dict):
            rope = cast("dict[str, Any]", scaling)
            original, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
            if isinstance(original, int | float):
                lengths.append(int(original * float(factor or 1)))
        return max(lengths, default=None)

    @property
    def model_type(self) -> str | None:
        """The family, as Transformers names it: that of the whole model, not of its text part."""
        value = self.outer.get("model_type")
        return value if isinstance(value, str) else None

    @property
    def vocabulary(self) -> int | None:
        """Tokens that the embedding has."""
        return self._integer("vocab_size")

    @property
    def heads(self) -> int | None:
        """Attention heads of the queries."""
        return self._integer("num_attention_heads")

    @property
    def kv_heads(self) -> int | None:
        """Attention heads of the keys and values."""
        return self._integer("num_key_value_heads") or self.heads

    @property
    def cache_elements(self) -> int:
        """Numbers that the key-value cache holds for each token."""
        heads = self.heads or 1
        head_dim = self._integer("head_dim") or (self._integer("hidden_size") or heads) // heads
        layers = self._integer("num_hidden_layers") or 1
        return 2 * layers * (self.kv_heads or heads) * head_dim

    @property
    def shape(self) -> DecoderShape | None:
        """The sizes that memory and work follow from; None for families that are not known."""
        return decoder_shape.of(self.values)

    def _integer(self, name: str) -> int | None:
        value = self.values.get(name)
        return value if isinstance(value, int) and value > 0 else None


def has_experts(values: Mapping[Any, Any]) -> bool:
    """Whether a config.json describes a mixture of experts: it states how many there are."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            if has_experts(cast("Mapping[Any, Any]", value)):
                return True
        elif "experts" in str(name) and isinstance(value, int) and value > 1:
            return True
    return False


def read(directory: Path) -> ModelConfig:
    """Read a model directory's config.json. Raises ModelError, naming the file."""
    values = _read_object(directory / CONFIG)
    return ModelConfig({**values, **_text_config(values)}, values)


def end_tokens(directory: Path) -> list[int]:
    """Return the token ids that end a generation: of generation_config.json, else of config.json.

    Raises:
        ModelError: one of the files can't be read.
    """
    for name in (GENERATION_CONFIG, CONFIG):
        if not (directory / name).is_file():
            continue
        values = _read_object(directory / name)
        value = values.get("eos_token_id", _text_config(values).get("eos_token_id"))
        listed = cast("list[object]", value) if isinstance(value, list) else [value]
        if ids := [token for token in listed if isinstance(token, int)]:
            return ids
    return []


def _text_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's part of a model that also reads images or sound."""
    inner = values.get("text_config")
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError as error:
        missing = path if path.parent.is_dir() else path.parent
        raise ModelError(
            f"{missing.name} does not exist",
            file=path,
            hint="name a directory with config.json, tokenizer and safetensors weights",
        ) from error
    except (OSError, msgspec.MsgspecError) as error:
        damaged = isinstance(error, msgspec.MsgspecError)
        raise ModelError(
            f"{path.name} {'is not valid JSON' if damaged else 'can not be read'}: {error}",
            file=path,
            hint="fetch the model again; its copy is damaged",
        ) from error
