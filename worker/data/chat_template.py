"""Renders chat templates exactly as Transformers does, without importing Transformers.

The Jinja environment is a copy of the one in `transformers.utils.chat_template_utils`, because
importing that module takes seconds and imports torch. A test compares the two on all templates.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jobspec.errors import TemplateError
from worker.rows.messages import Message
from worker.thinking import ThinkTags


class RenderError(Exception):
    """The template raised an error for these messages."""


class _Generation(jinja2.ext.Extension):
    """Renders the body of `{% generation %}`, which marks assistant text for Transformers."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller: Any) -> str:
        return caller()


class ChatTemplate:
    """A model's chat template, with everything that its rendering depends on.

    Args:
        sources: the templates by name: `default`, and `tool_use` if the model has one.
        special_tokens: variables of the template, such as `eos_token`.
        kwargs: `eval.chat_template_kwargs` of the spec, so that the prompts in training are the
            same as those at inference.
        file: named in errors.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        special_tokens: Mapping[str, str],
        *,
        kwargs: Mapping[str, Any] | None = None,
        file: str | Path | None = None,
    ) -> None:
        self.sources = dict(sources)
        self._variables = {**special_tokens, **(kwargs or {})}
        environment = _environment()
        try:
            self._compiled = {
                name: environment.from_string(text) for name, text in self.sources.items()
            }
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"not a Jinja template: {error.message} (line {error.lineno})",
                file=file,
                hint="chat templates are Jinja; see `model.chat_template` in the spec",
            ) from error

    @property
    def text(self) -> str:
        """The default template's source."""
        return self.sources["default"]

    @cached_property
    def identity(self) -> str:
        """A hash of the templates and of the variables that they are rendered with."""
        data = json.dumps([self.sources, self._variables], sort_keys=True)
        return hashlib.sha256(data.encode()).hexdigest()

    @property
    def writes_date(self) -> bool:
        """Whether the rendered text may depend on the date."""
        return any("strftime_now" in text for text in self.sources.values())

    def mentions(self, name: str) -> bool:
        """Whether the template's source names a field, so that it may render it."""
        written = re.compile(rf"""(?:\.\s*|['"]){re.escape(name)}(?!\w)""")
        return any(written.search(text) for text in self.sources.values())

    def render(
        self, messages: list[Message], tools: list[Any] | None = None, *, prompt: bool
    ) -> str:
        """Render a conversation; with `prompt`, followed by the generation prompt.

        Raises:
            RenderError: with the template's own message, if it has one.
        """
        named = "tool_use" if tools is not None and "tool_use" in self._compiled else "default"
        try:
            return self._compiled[named].render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=prompt,
                **self._variables,
            )
        except Exception as error:  # a template is a program and may raise anything
            raise RenderError(str(error) or type(error).__name__) from error

    def opening(
        self, messages: list[Message], tools: list[Any] | None, prompt: str, tags: ThinkTags
    ) -> str:
        """What the generation prompt writes of the answer: `<think>`, an empty block, or "".

        Args:
            prompt: the messages rendered with `prompt`.
        """
        start, end = re.escape(tags.open), re.escape(tags.close)
        match = re.search(rf"{start}\s*(?:{end}\s*)?\Z", prompt)
        if match is None:
            return ""
        # The last message may end with the same text; only what the generation prompt adds counts.
        shared = common_prefix(prompt, self.render(messages, tools, prompt=False))
        return match.group() if match.start() >= shared else ""


def common_prefix(one: str, other: str) -> int:
    """The number of characters in the common prefix of two texts."""
    return len(os.path.commonprefix((one, other)))  # noqa: RUF071 - characters are intended


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON without escaping HTML characters, which Jinja's own filter does."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
