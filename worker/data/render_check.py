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

from worker.data.chat_template import Message
from worker.thinking import ThinkTags

_REASONING = ("reasoning_content", "reasoning", "thinking")
_CARRIERS = ("functions", "function_calls")


@dataclass(frozen=True, slots=True)
class MessagePart:
    """A part of a message that the rendered text must contain."""

    text: str
    what: str
    optional: bool = False


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
    squeezed = _squeeze(text[:final])
    for index, tool in enumerate(tools or (), 1):
        if _squeeze(_json(tool)) not in squeezed:
            return RenderOutcome(f"the template drops tool {index} (`{_tool_name(tool)}`)")
    outcome = _follow(messages, text, final, tags, skip=False)
    if outcome.lost is not None:
        # Dropped reasoning may match later text by chance, so try again without searching for it.
        outcome = _follow(messages, text, final, tags, skip=True)
    return outcome


def thinking(message: Message, tags: ThinkTags) -> str | None:
    """The stripped reasoning of an assistant message; None if it has no think block."""
    for key in _REASONING:
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


def _follow(
    messages: list[Message], text: str, final: int, tags: ThinkTags, *, skip: bool
) -> RenderOutcome:
    cursor, dropped = 0, 0
    for index, message in enumerate(messages):
        is_final = index == len(messages) - 1
        cursor = max(cursor, final) if is_final else cursor
        limit = len(text) if is_final else final
        for piece in _pieces(message, index, tags, is_final=is_final):
            at = -1 if skip and piece.optional else text.find(piece.text, cursor, limit)
            if at >= 0:
                cursor = at + len(piece.text)
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
        reasoning = [message[key] for key in _REASONING if isinstance(message.get(key), str)]
        block = None if reasoning else _inline_block(said, tags)
        if block is not None:
            reasoning, said = [block[0]], [block[1]]
        for part in reasoning:
            if part.strip():
                yield MessagePart(part.strip(), f"the thinking of {name}", optional=not is_final)
    said += [message[key] for key in _CARRIERS if isinstance(message.get(key), str)]
    for part in said:
        if part.strip():
            yield MessagePart(part.strip(), f"the content of {name}")


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
    calls = message.get("tool_calls") or ()
    squeezed = _squeeze(region) if calls else ""
    for call in calls:
        function = call.get("function") or call
        name, arguments = function.get("name"), function.get("arguments")
        if not isinstance(name, str) or name not in region:
            return f"the tool call `{name}`"
        if isinstance(arguments, str):
            arguments = _parsed(arguments)
        if _squeeze(_json(arguments)) in squeezed:
            continue
        values = arguments.items() if isinstance(arguments, dict) else [("", arguments)]
        for key, value in values:
            if key not in region or not _is_in(value, region, squeezed):
                return f"the argument `{key}` of the tool call `{name}`"
    return None


def _is_in(value: Any, region: str, squeezed: str) -> bool:
    return _squeeze(_json(value)) in squeezed or (isinstance(value, str) and value in region)


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


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
