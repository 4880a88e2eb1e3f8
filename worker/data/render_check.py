"""Checks that the chat template renders all of a row's content. Works on text, not on tokens.

Templates silently drop content: turns with an unknown role, `reasoning_content`, tools, everything
before a quoted `</think>`. This module searches the rendered text for every part of every message,
verbatim except for outer whitespace, and in order. Reasoning of earlier turns may be missing,
because some templates (Qwen3's) drop it by design; this is counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from worker.data.chat_template import ChatTemplate
from worker.rows.messages import Message
from worker.rows.row import CARRIERS, REASONING, TextField
from worker.thinking import ThinkTags

_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\(.)")


@dataclass(frozen=True, slots=True)
class MessagePart:
    """A part of a message that the rendered text must contain.

    Attributes:
        may_be_quoted: whether it may stand there as a JSON string, as some templates write the
            result of a tool.
    """

    text: str
    what: str
    optional: bool = False
    may_be_quoted: bool = False

    def find(self, text: str, start: int, end: int) -> tuple[int, int]:
        """Where it stands in a part of the text, and its length there; (-1, 0) if it does not."""
        at = text.find(self.text, start, end)
        if at >= 0 or not self.may_be_quoted:
            return at, len(self.text)
        for ascii_only in (False, True):
            quoted = json.dumps(self.text, ensure_ascii=ascii_only)[1:-1]
            if (at := text.find(quoted, start, end)) >= 0:
                return at, len(quoted)
        return -1, 0


class RenderedText:
    """Rendered text that is searched without regard to white space and JSON's escapes."""

    def __init__(self, text: str) -> None:
        self._squeezed = _squeeze(text)
        self._unescaped: str | None = None

    def has(self, text: str) -> bool:
        """Whether a text stands in it, line by line."""
        return all(self._has(_squeeze(line)) for line in text.splitlines())

    def has_json(self, value: Any) -> bool:
        """Whether the JSON of a value stands in it."""
        return self._has(_squeeze(_json(value)))

    def has_value(self, value: Any) -> bool:
        """Whether a value stands in it, as JSON or in a notation that spells its parts."""
        if self.has_json(value):
            return True
        if isinstance(value, dict):
            return all(self.has(key) and self.has_value(inner) for key, inner in value.items())
        if isinstance(value, list):
            return all(map(self.has_value, value))
        return self.has(str(value))  # Jinja writes True and None as Python does

    def _has(self, squeezed: str) -> bool:
        if squeezed in self._squeezed:
            return True
        if "\\" not in self._squeezed:
            return False
        if self._unescaped is None:
            self._unescaped = _unescape(self._squeezed)
        return _unescape(squeezed) in self._unescaped


@dataclass(frozen=True, slots=True)
class RenderOutcome:
    """The result of checking one row.

    Attributes:
        lost: a message about what is missing; None if nothing is.
        end: where the last part ends in the text.
        thinking_dropped: number of earlier turns whose reasoning the template left out.
    """

    lost: str | None
    end: int = 0
    thinking_dropped: int = 0


def trace(
    messages: list[Message], tools: list[Any] | None, text: str, final: int, tags: ThinkTags
) -> RenderOutcome:
    """Search the rendered text for the tools and every message.

    Args:
        messages: the row's messages.
        tools: its tools.
        text: the rendered conversation.
        final: where the final turn begins in it, after its header.
        tags: the tags of a think block.
    """
    if tools:
        rendered = RenderedText(text[:final])
        for index, tool in enumerate(tools, 1):
            if not (rendered.has_json(tool) or all(map(rendered.has, _tool_texts(tool)))):
                return RenderOutcome(f"the template drops tool {index} (`{_tool_name(tool)}`)")
    outcome = _follow(messages, text, final, tags, skip=False)
    if outcome.lost is not None:
        # Dropped reasoning may match later text by chance, so try again without searching for it.
        outcome = _follow(messages, text, final, tags, skip=True)
    return outcome


def thinking(message: Message, tags: ThinkTags) -> str | None:
    """The stripped reasoning of an assistant message; None if it has no think block."""
    for key in REASONING:
        said = message.get(key)
        if isinstance(said, str) and said.strip():
            return said.strip()
    block = _inline_block(texts(message.get("content")), tags)
    return None if block is None else block[0].strip()


def first_block(turn: str, tags: ThinkTags) -> str | None:
    """The stripped reasoning at the start of a rendered turn; None if it starts without any."""
    block = _inline_block([turn], tags)
    return None if block is None else block[0].strip()


def is_unclosed(message: Message, tags: ThinkTags) -> bool:
    """Whether an assistant message opens a think block but does not close it."""
    text = "".join(texts(message.get("content")))
    return text.lstrip().startswith(tags.open) and tags.close not in text


def without_repeated_thinking(
    messages: list[Message], tags: ThinkTags, template: ChatTemplate
) -> list[Message] | None:
    """The messages, with reasoning that is in a field and in the content given once.

    It stays in the field if the template names the field, and in the content otherwise. None if
    the two differ.
    """
    changed = list(messages)
    for index, message in enumerate(messages):
        fields = [key for key in REASONING if _is_text(message.get(key))]
        block = _inline_block(texts(message.get("content")), tags) if fields else None
        if block is None or message["role"] != "assistant" or not block[0].strip():
            continue
        if any(message[key].strip() != block[0].strip() for key in fields):
            return None
        is_text = isinstance(message["content"], str)
        if is_text and any(map(template.mentions, fields)):
            changed[index] = {**message, "content": block[1].lstrip()}
        else:
            changed[index] = {key: value for key, value in message.items() if key not in fields}
    return changed


def with_arguments_as_text(messages: list[Message]) -> list[Message] | None:
    """The messages with the arguments of tool calls as JSON text; None if there are no calls."""
    if not any(message.get("tool_calls") for message in messages):
        return None
    return [
        {**message, "tool_calls": [_with_text(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    if call.get("function"):
        return {**call, "function": _with_text(call["function"])}
    return {**call, "arguments": _json(call["arguments"])}


def unrendered_fields(
    fields: tuple[TextField, ...], text: str, template: ChatTemplate
) -> tuple[str, ...]:
    """The names of the fields that the template does not name, or whose text is not in `text`."""
    names = (
        field.name
        for field in fields
        if not field.texts
        or not template.mentions(field.name)
        or any(part not in text for part in field.texts)
    )
    return tuple(sorted(set(names)))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _follow(
    messages: list[Message], text: str, final: int, tags: ThinkTags, *, skip: bool
) -> RenderOutcome:
    cursor, dropped = 0, 0
    for index, message in enumerate(messages):
        is_final = index == len(messages) - 1
        cursor = max(cursor, final) if is_final else cursor
        limit = len(text) if is_final else final
        for piece in _pieces(message, index, tags, is_final=is_final):
            at, size = (-1, 0) if skip and piece.optional else piece.find(text, cursor, limit)
            if at >= 0:
                cursor = at + size
            elif piece.optional:
                dropped += 1
            else:
                return RenderOutcome(_lost(piece, tags))
        lost = _lost_call(message, text[cursor:limit])
        if lost is not None:
            return RenderOutcome(f"the template drops {lost} of {_name(message, index)}")
    return RenderOutcome(None, cursor, dropped)


def _pieces(
    message: Message, index: int, tags: ThinkTags, *, is_final: bool
) -> Iterator[MessagePart]:
    name = _name(message, index)
    said = texts(message.get("content"))
    if message["role"] == "assistant":
        # Some exports give the same reasoning in two fields.
        fields = (message[key] for key in REASONING if isinstance(message.get(key), str))
        reasoning = list(dict.fromkeys(fields))
        block = None if reasoning else _inline_block(said, tags)
        if block is not None:
            reasoning, said = [block[0]], [block[1]]
        for part in reasoning:
            if part.strip():
                yield MessagePart(part.strip(), f"the thinking of {name}", optional=not is_final)
    said += [message[key] for key in CARRIERS if isinstance(message.get(key), str)]
    for part in said:
        if part.strip():
            quoted = message["role"] == "tool"
            yield MessagePart(part.strip(), f"the content of {name}", may_be_quoted=quoted)


def _inline_block(said: list[str], tags: ThinkTags) -> tuple[str, str] | None:
    """(reasoning, answer) of content that starts with a closed think block."""
    if len(said) != 1 or not said[0].lstrip().startswith(tags.open):
        return None
    inside, close, answer = said[0].lstrip()[len(tags.open) :].partition(tags.close)
    return (inside, answer) if close else None


def texts(content: Any) -> list[str]:
    """The texts of a message's content, which may be a string, null, or a list of parts."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [part["text"] for part in parts if isinstance(part.get("text"), str)]


def _lost(piece: MessagePart, tags: ThinkTags) -> str:
    quoted = f", which quotes `{tags.close}`" if tags.close in piece.text else ""
    return f"the template drops or changes {piece.what}{quoted}"


def _lost_call(message: Message, region: str) -> str | None:
    """The part of a message's tool calls that is missing in the text after its content."""
    calls = message.get("tool_calls")
    if not calls:
        return None
    rendered = RenderedText(region)
    for call in calls:
        function = call.get("function") or call
        name, arguments = function["name"], function["arguments"]
        if name not in region:
            return f"the tool call `{name}`"
        if rendered.has_json(arguments):
            continue
        for key, value in arguments.items():
            if not (rendered.has(key) and rendered.has_value(value)):
                return f"the argument `{key}` of the tool call `{name}`"
    return None


def _tool_texts(tool: Any) -> Iterator[str]:
    """What a template must render of a tool if it does not write its JSON: names and texts.

    Types may be spelled otherwise, and which parameters are required may be shown by a mark.
    """
    function = tool.get("function", tool)
    for key in ("name", "description"):
        if isinstance(function.get(key), str):
            yield function[key]
    yield from _schema_texts(function.get("parameters"))


def _schema_texts(schema: Any) -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("description"), str):
        yield schema["description"]
    yield from (value for value in schema.get("enum") or () if isinstance(value, str))
    properties = schema.get("properties")
    for name, inner in properties.items() if isinstance(properties, dict) else ():
        yield name
        yield from _schema_texts(inner)
    yield from _schema_texts(schema.get("items"))


def _unescape(text: str) -> str:
    """Undo JSON's escapes, as far as they stand for one character."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)


def _squeeze(text: str) -> str:
    """Remove whitespace, so that the indentation of JSON does not matter."""
    return re.sub(r"\s+", "", text)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _tool_name(tool: Any) -> str:
    function = tool.get("function", tool) if isinstance(tool, dict) else {}
    return str(function.get("name", "?")) if isinstance(function, dict) else "?"


def _name(message: Message, index: int) -> str:
    return f"message {index + 1} (`{message['role']}`)"
