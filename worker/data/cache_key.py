"""The inputs of prepare, checked and hashed into the key of the dataset cache."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jobspec.errors import DataError, ModelError, TemplateError
from jobspec.models import config
from jobspec.records.base import UNSET, UnsetType
from jobspec.spec.schema import DataSpec, JobSpec, TrainSpec
from jobspec.spec.sources import list_sources
from jobspec.storage.layout import RootPaths
from worker.data.chat_template import ChatTemplate
from worker.data.encode import RowEncoder
from worker.data.mixture import Mixture
from worker.data.tokenizer import Codec, ModelTokenizer, load_tokenizer_facts
from worker.rows import data_sources
from worker.rows.data_sources import DataSource
from worker.thinking import ThinkTags

# Part of every key. Raise it when the same inputs give other rows, another report or other files
# (2: token counts in a file of their own; 3: tool calls in one form, fields that are not rendered;
# 4: other held-out prompts; 5: tokens of rows that are too long).
VERSION = 5


@dataclass(frozen=True)
class PrepareInputs:
    """The inputs of prepare. Inputs with the same `key` give the same prepared rows."""

    data: DataSpec
    train: TrainSpec
    data_sha256: str
    tokenizer: ModelTokenizer
    template: ChatTemplate
    tags: ThinkTags

    @classmethod
    def of(cls, spec: JobSpec, root: RootPaths) -> PrepareInputs:
        """Read and check the inputs of a spec.

        Raises:
            DataError: the file is missing, empty, or differs from the hash in the spec.
            ModelError: the model is missing, has no usable tokenizer, or a context too short.
            TemplateError: there is no template, or it can't be read.
        """
        data, train = spec.data, spec.train
        if data is None or train is None:
            raise DataError("the spec trains nothing", place="$.data", hint="nothing to prepare")
        sha256 = data_sources.digest(data)
        tokenizer = load_tokenizer_facts(spec.model, root)
        _check_positions(train.max_length, tokenizer.model_dir)
        tags = ThinkTags.closed_by(spec.eval.think_end_token if spec.eval is not None else None)
        return cls(data, train, sha256, tokenizer, _template(spec, tokenizer), tags)

    @cached_property
    def sources(self) -> tuple[DataSource, ...]:
        """The data files, each with the parser for its lines."""
        return data_sources.sources_of(self.data)

    @property
    def key(self) -> str:
        described: dict[str, Any] = {
            "version": VERSION,
            "data": self.data_sha256,
            "tokenizer": self.tokenizer.sha256,
            "template": self.template.identity,
            "tags": [self.tags.open, self.tags.close],
            "max_length": self.train.max_length,
            "eval_split_ratio": self.data.eval_split_ratio,
            "max_train_samples": self.data.max_train_samples,
            "require_think": self.data.require_think,
            "format": self.data.format,
            "ignore_fields": sorted(set(self.data.ignore_fields)),
            "seed": self.train.seed,
        }
        if self.data.sources:
            shares = list_sources(self.data)
            described["sources"] = [[each.name, each.repeat, each.weight] for each in shares]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:40]

    def file_of(self, source: str | UnsetType) -> Path:
        """The file of a source by its name; of a single file, that file."""
        return next(each.file for each in self.sources if source in (UNSET, each.name))

    @cached_property
    def mixture(self) -> Mixture | None:
        """The shares of the sources; None for a single file."""
        data = self.data
        if not data.sources:
            return None
        ratio, limit = data.eval_split_ratio, data.max_train_samples
        return Mixture(list_sources(data), ratio, limit, self.train.seed)

    def encoder(self) -> RowEncoder:
        """An encoder for these rows; loads the tokenizer."""
        return RowEncoder(
            template=self.template,
            codec=Codec(self.tokenizer.facts),
            tags=self.tags,
            max_length=self.train.max_length,
            require_think=self.data.require_think,
            embedded=self.tokenizer.embedded,
        )


def _check_positions(max_length: int, model_dir: Path) -> None:
    limit = config.read(model_dir).context_length
    if limit is not None and max_length > limit:
        raise ModelError(
            f"max_length {max_length} is longer than the model's context of {limit} tokens",
            file=model_dir / config.CONFIG,
            place="$.train.max_length",
            hint=f"set it to {limit} or less",
        )


def _template(spec: JobSpec, tokenizer: ModelTokenizer) -> ChatTemplate:
    given, place = spec.model.chat_template, "$.model.chat_template"
    sources, file = tokenizer.facts.chat_templates, tokenizer.model_dir
    if given is not None:
        file = Path(given).expanduser().absolute()
        try:
            sources = {"default": file.read_text(encoding="utf-8")}
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            hint = "it must name a file with a Jinja template"
            raise TemplateError(
                f"can't be read: {why}", file=file, place=place, hint=hint
            ) from error
    if "default" not in sources:
        raise TemplateError(
            "the model's tokenizer has no chat template",
            file=file,
            place=place,
            hint="set model.chat_template to a file with a Jinja template",
        )
    kwargs = spec.eval.chat_template_kwargs if spec.eval is not None else {}
    return ChatTemplate(sources, tokenizer.facts.special_tokens, kwargs=kwargs, file=file)
