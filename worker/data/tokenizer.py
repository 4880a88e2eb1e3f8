"""A model's tokenizer, template and end tokens, without Transformers once they are in the cache.

Transformers' AutoTokenizer decides what a model directory's tokenizer is: it is asked once for each
set of tokenizer files, in a process of its own, and its facts is kept in the root's cache. Every
later process reads that facts with the `tokenizers` library alone, in milliseconds.
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
from jobspec.models.config import end_tokens
from jobspec.models.directory import find_model
from jobspec.spec.schema import ModelSpec
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths

# What a tokenizer is read from. `config.json` counts: it names the tokenizer's class.
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
_FORMAT = 1


class TokenizerFacts(msgspec.Struct, frozen=True):
    """What AutoTokenizer made of a model directory."""

    tokenizer: str
    special_tokens: dict[str, str]
    chat_templates: dict[str, str]
    eos_tokens: dict[str, int]


class Codec:
    """Text to token ids and back, for parts of a text."""

    def __init__(self, facts: TokenizerFacts) -> None:
        # Every core has a process of its own already, and threads would not survive a fork.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(facts.tokenizer)
        self.eos_tokens = facts.eos_tokens
        self._anchor, self._anchor_ids, self._anchor_text = self._find_anchor()

    def encode(self, text: str) -> list[int]:
        """The ids of a text that begins a sequence, as at inference: no token is added."""
        # The batch call leaves out character offsets, a sixth of the time.
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_rest(self, text: str) -> list[int] | None:
        """The ids of a text that goes on where a prompt ended; None where that can't be said."""
        ids = self.encode(self._anchor + text)
        count = len(self._anchor_ids)
        return ids[count:] if ids[:count] == self._anchor_ids else None

    def spell(self, ids: list[int]) -> str:
        """The text that ids stand for in the middle of a sequence, special tokens shown."""
        text = self._decode([*self._anchor_ids, *ids])
        return text[len(self._anchor_text) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _find_anchor(self) -> tuple[str, list[int], str]:
        """Text to put before a continuation so that no space is made up at its start.

        Byte-level tokenizers need none. SentencePiece ones write a space before whatever begins a
        sequence (or follows a special token): behind an anchor the text does not begin.
        """
        for anchor in ("", *self.eos_tokens, "\n"):
            ids = self.encode(anchor) if anchor else []
            self._anchor, self._anchor_ids, self._anchor_text = anchor, ids, self._decode(ids)
            if all(self._round_trips(text) for text in ("a", " a", "<a>\na")):
                return self._anchor, self._anchor_ids, self._anchor_text
        raise ModelError(
            "its tokenizer does not spell a text's parts as they were written",
            hint="prepare needs a tokenizer that decodes what it encodes",
        )

    def _round_trips(self, text: str) -> bool:
        """Whether a text's ids spell it, behind the anchor and behind anything else.

        A decoder that strips the space it expects at a sequence's start hides a made-up one there.
        """
        ids = self.encode_rest(text)
        if ids is None or self.spell(ids) != text:
            return False
        before = self.encode("x")
        return self._decode([*before, *ids]) == self._decode(before) + text


@dataclass(frozen=True)
class ModelTokenizer:
    """A model's tokenizer, as `prepare` needs it.

    Attributes:
        sha256: of the tokenizer's files and the versions that read them.
    """

    model_dir: Path
    facts: TokenizerFacts
    sha256: str


def load_tokenizer_facts(model: ModelSpec, root: RootPaths) -> ModelTokenizer:
    """A model's tokenizer from the cache, or through AutoTokenizer where it is not there yet.

    Raises:
        ModelError: no such model here, or no tokenizer that can be used.
    """
    directory = find_model(model, root)
    sha256 = _fingerprint(directory, model.trust_remote_code)
    kept = root.tokenizers / f"{sha256}.json"
    facts = _read(kept)
    if facts is None:
        facts = _ask_transformers(directory, model.trust_remote_code)
        fs.make_dir(kept.parent)
        fs.publish(kept, msgspec.json.encode(facts))
    return ModelTokenizer(directory, facts, sha256)


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
    # In a process of its own: torch, which comes along, must not be in the one that forks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_tokenizer_facts, directory, trust_remote_code).result()


def _tokenizer_facts(directory: Path, trust_remote_code: bool) -> TokenizerFacts:
    from transformers import AutoTokenizer, logging

    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory), trust_remote_code=trust_remote_code, local_files_only=True
        )
    except JobspecError:
        raise
    except Exception as error:  # whatever its code raises is about this directory
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
        chat_templates=templates,
        eos_tokens={text: token for text, token in spelled.items() if text is not None},
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
