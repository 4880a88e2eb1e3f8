"""A model's tokenizer, chat templates and end tokens, from the root's cache.

AutoTokenizer loads each set of tokenizer files once, in a child process, and the result is stored
in the cache. Later processes need only the `tokenizers` library and read it in milliseconds.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import JobspecError, ModelError
from jobspec.models.config import end_tokens, read
from jobspec.models.directory import find_model
from jobspec.models.weights import count_embedded_tokens
from jobspec.spec.schema import ModelSpec
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths

# The files that define a tokenizer; `config.json` because it names the tokenizer's class.
_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_FORMAT = 2


class TokenizerFacts(msgspec.Struct, frozen=True):
    """What AutoTokenizer loaded from a model directory.

    Attributes:
        special_ids: the id of each special token, by its role: `eos_token`, `pad_token`.
    """

    tokenizer: str
    special_tokens: dict[str, str]
    chat_templates: dict[str, str]
    eos_tokens: dict[str, int]
    special_ids: dict[str, int] = msgspec.field(default_factory=dict[str, int])


class Codec:
    """Encodes and decodes parts of a text."""

    def __init__(self, facts: TokenizerFacts) -> None:
        # There is a process per core already, and threads do not survive a fork.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(facts.tokenizer)
        self.eos_tokens = facts.eos_tokens
        self._anchor, self._anchor_ids, self._anchor_text = self._find_anchor()

    def encode(self, text: str) -> list[int]:
        """The ids of a text at the start of a sequence. No special tokens are added."""
        # The batch call computes no character offsets, which saves a sixth of the time.
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_rest(self, text: str) -> list[int] | None:
        """The ids of a text that continues a prompt; None if they can't be determined."""
        ids = self.encode(self._anchor + text)
        count = len(self._anchor_ids)
        return ids[count:] if ids[:count] == self._anchor_ids else None

    def token(self, number: int) -> str:
        """A token as it stands in the vocabulary."""
        return self._tokenizer.id_to_token(number) or ""

    def spell(self, ids: list[int]) -> str:
        """Decode ids in the middle of a sequence, including special tokens."""
        text = self._decode([*self._anchor_ids, *ids])
        return text[len(self._anchor_text) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _find_anchor(self) -> tuple[str, list[int], str]:
        """A text to put before a continuation, so that encoding adds no space at its start.

        Byte-level tokenizers need none. SentencePiece tokenizers add a space at the start of a
        sequence, or after a special token; text after the anchor is not at the start.
        """
        for anchor in ("", *self.eos_tokens, "\n"):
            ids = self.encode(anchor) if anchor else []
            self._anchor, self._anchor_ids, self._anchor_text = anchor, ids, self._decode(ids)
            if all(self._round_trips(text) for text in ("a", " a", "<a>\na")):
                return self._anchor, self._anchor_ids, self._anchor_text
        raise ModelError(
            "its tokenizer does not decode parts of a text to the same text",
            hint="the tokenizer must decode exactly what it encodes",
        )

    def _round_trips(self, text: str) -> bool:
        """Whether a text survives encoding and decoding, after the anchor and after other text.

        Both are needed, because a decoder that strips the first space hides an added one.
        """
        ids = self.encode_rest(text)
        if ids is None or self.spell(ids) != text:
            return False
        before = self.encode("x")
        return self._decode([*before, *ids]) == self._decode(before) + text


@dataclass(frozen=True)
class ModelTokenizer:
    """A model's tokenizer.

    Attributes:
        sha256: of the tokenizer's files and of the versions of the libraries that read them.
        embedded: how many tokens the model embeds; None if its files do not say it.
    """

    model_dir: Path
    facts: TokenizerFacts
    sha256: str
    embedded: int | None


def load_tokenizer_facts(model: ModelSpec, root: RootPaths) -> ModelTokenizer:
    """A model's tokenizer from the cache; if it is not there, from AutoTokenizer.

    Raises:
        ModelError: the model is not on this machine, or its tokenizer can't be used.
    """
    directory = find_model(model, root)
    sha256 = _fingerprint(directory, model.trust_remote_code)
    kept = root.tokenizers / f"{sha256}.json"
    facts = _read(kept)
    if facts is None:
        facts = _ask_transformers(directory, model.trust_remote_code)
        fs.make_dir(kept.parent)
        fs.publish(kept, msgspec.json.encode(facts))
    embedded = count_embedded_tokens(directory)
    _refuse_unusable(facts, embedded, directory)
    return ModelTokenizer(directory, facts, sha256, embedded)


def _refuse_unusable(facts: TokenizerFacts, embedded: int | None, directory: Path) -> None:
    """Raise ModelError for a tokenizer that the model cannot be trained with.

    Other tokens than these two may lie beyond the embedding if no row has them. Tokenizers of
    published models contain such tokens, for example for images (Gemma 3 1B).
    """
    if not facts.special_ids.keys() & {"eos_token", "pad_token"}:
        raise ModelError(
            "its tokenizer has neither an end-of-sequence token nor a padding token",
            file=directory / "tokenizer_config.json",
            hint="set `eos_token` to the token that ends a turn",
        )
    for role in ("eos_token", "pad_token"):
        token = facts.special_ids.get(role)
        if token is not None and embedded is not None and token >= embedded:
            raise ModelError(
                f"its {role} `{facts.special_tokens[role]}` has the id {token}, but the model "
                f"embeds {embedded} tokens",
                file=directory / "tokenizer_config.json",
                hint="use the tokenizer that belongs to these weights, or resize the embedding",
            )


def _read(path: Path) -> TokenizerFacts | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=TokenizerFacts)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _fingerprint(directory: Path, trust_remote_code: bool) -> str:
    versions = [importlib.metadata.version(name) for name in ("transformers", "tokenizers")]
    described: list[Any] = [_FORMAT, versions, trust_remote_code]
    extra = sorted(directory.glob("additional_chat_templates/*.jinja"))
    code = sorted(directory.glob("*.py")) if trust_remote_code else []
    for path in (*(directory / name for name in _FILES), *extra, *code):
        if path.is_file():
            with path.open("rb") as file:
                described.append([path.name, hashlib.file_digest(file, "sha256").hexdigest()])
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _ask_transformers(directory: Path, trust_remote_code: bool) -> TokenizerFacts:
    # In a child process: AutoTokenizer imports torch, which a process that forks must not do.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_tokenizer_facts, directory, trust_remote_code).result()


def _tokenizer_facts(directory: Path, trust_remote_code: bool) -> TokenizerFacts:
    from transformers import AutoTokenizer, logging

    logging.set_verbosity_error()
    _refuse_other_models(directory)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory), trust_remote_code=trust_remote_code, local_files_only=True
        )
    except JobspecError:
        raise
    except Exception as error:  # the model's own code may raise anything
        raise ModelError(
            f"no tokenizer can be loaded: {_first_line(error)}",
            file=directory,
            hint="a model directory needs tokenizer.json, or the files its tokenizer class reads",
        ) from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"its tokenizer `{type(tokenizer).__name__}` has no fast implementation",
            file=directory,
            hint="convert it to a tokenizer.json",
        )
    templates = tokenizer.chat_template or {}
    if isinstance(templates, str):
        templates = {"default": templates}
    ids = end_tokens(directory)
    if tokenizer.eos_token_id is not None:
        ids = [*ids, tokenizer.eos_token_id]
    spelled = {backend.id_to_token(token): token for token in ids}
    return TokenizerFacts(
        tokenizer=backend.to_str(),
        special_tokens={key: str(value) for key, value in tokenizer.special_tokens_map.items()},
        special_ids={
            role: token
            for role, text in tokenizer.special_tokens_map.items()
            if role.endswith("_token") and (token := backend.token_to_id(str(text))) is not None
        },
        chat_templates=templates,
        eos_tokens={text: token for text, token in spelled.items() if text is not None},
    )


def _refuse_other_models(directory: Path) -> None:
    """Raise ModelError for a kind of model that Transformers knows, but not as a language model."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = read(directory).model_type
    if kind in CONFIG_MAPPING and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"a `{kind}` model is not a causal language model for Transformers",
            file=directory / "config.json",
            hint="use a model that AutoModelForCausalLM can load",
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
