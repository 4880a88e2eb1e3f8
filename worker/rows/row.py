"""Parses one line of a data file into a conversation, or says why it is none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import MalformedRow
from jobspec.spec.schema import METADATA_FIELDS
from jobspec.storage import json_faults
from worker.rows import converters
from worker.rows.messages import Malformed, Message, carries_text, normalize, tools_of

REASONING = ("reasoning_content", "reasoning", "thinking")
CARRIERS = ("functions", "function_calls")  # fields of a message that some templates render as text

_ROW_FIELDS = frozenset({"messages", "tools", "functions"})
_MESSAGE_FIELDS = frozenset({"role", "content", "tool_calls", "tool_call_id", *CARRIERS})
_CALL_FIELDS = frozenset({"id", "type", "function", "name", "arguments"})
_FUNCTION_FIELDS = frozenset({"name", "arguments"})
_PART_FIELDS = frozenset({"type", "text"})
_NAMES = frozenset({"role", "type", "id", "tool_call_id"})  # fields that hold no text
_NOT_TRAINED = ("train", "trainable", "loss")  # false on the final turn: do not train it


@dataclass(frozen=True, slots=True)
class TextField:
    """A field that carries text and that no template is known to render.

    Attributes:
        name: the field's name, as `data.ignore_fields` lists it.
        texts: its texts, if a template may render them: the field of a message as plain text.
    """

    name: str
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatRow:
    """A well-formed row.

    Attributes:
        number: counts the file's lines from 1.
        text_fields: fields beside the conversation's own that carry text.
        not_trained: why the final turn is not to be trained, if the row says so.
        format: the name of the row's format, as `data.format` lists it.
    """

    number: int
    messages: list[Message]
    tools: list[Any] | None
    text_fields: tuple[TextField, ...] = ()
    not_trained: str | None = None
    format: str = "messages"

    @property
    def prompt_key(self) -> bytes:
        """A hash of all messages before the final turn, equal for rows with the same prompt."""
        data = msgspec.json.encode(self.messages[:-1], order="sorted")
        return hashlib.blake2b(data, digest_size=12).digest()

    def texts(self, messages: list[Message] | None = None) -> list[str]:
        """Every text of its messages (or of some): contents, reasoning, arguments of calls."""
        return list(_texts_in(self.messages if messages is None else messages))


@dataclass(frozen=True, slots=True)
class RowParser:
    """How the lines of a data file become rows. `file` is named in errors."""

    file: Path
    format: str = "auto"
    ignored: frozenset[str] = frozenset()

    def parse(self, line: bytes, number: int) -> ChatRow:
        """Parse one line.

        Raises:
            MalformedRow: it is not a conversation to train on.
            DataError: it holds bytes, characters or numbers that no valid export has.
        """
        row = self._decode(line, number)
        if self.ignored:
            row = {key: value for key, value in row.items() if key not in self.ignored}
        try:
            row, found = converters.convert(row, self.format)
            row = _with_messages(row)
            if self.ignored:
                _remove_fields(row["messages"], self.ignored)
            tools = tools_of(row.get("tools"), row.get("functions"))
            normalize(row["messages"])
            not_trained = _not_trained(row)
        except (Malformed, converters.NotConvertible, msgspec.ValidationError) as error:
            hint = 'a row is {"messages": [{"role": …, "content": …}, …]}, `tools` a list beside it'
            if isinstance(error, Malformed):
                hint = error.hint
            message = str(error)
            place = f"row {number}"
            raise MalformedRow(message, file=self.file, place=place, hint=hint) from error
        fields = tuple(_text_fields(row, row["messages"]))
        return ChatRow(number, row["messages"], tools, fields, not_trained, found)

    def _decode(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = _decode_row(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise json_faults.explain(line, number, self.file) from error
        fault = json_faults.find_fault(row) if b"\\u0000" in line else None
        if fault is None and _may_repeat_keys(line, row):
            fault = json_faults.find_repeated_key(line)
        if fault is not None:
            raise json_faults.found_fault(fault, number, self.file)
        return row


def _may_repeat_keys(line: bytes, row: dict[str, Any]) -> bool:
    """Whether a key of the conversation stands more often in a line than it can without repeats.

    Counting bytes is cheap. Inside a text the quotes are escaped, so quoted keys are not counted.
    """
    messages = row.get("messages")
    count = len(messages) if isinstance(messages, list) else 0
    return line.count(b'"messages"') > 1 or (
        count > 0 and max(line.count(b'"content"'), line.count(b'"role"')) > count
    )


_decode_row = msgspec.json.Decoder(dict[str, Any]).decode


class _Messages(msgspec.Struct):
    messages: list[dict[str, Any]]


def parse_row(line: bytes, number: int, file: Path) -> ChatRow:
    """Parse one line without settings; see `RowParser.parse`."""
    return RowParser(file).parse(line, number)


def _with_messages(row: dict[str, Any]) -> dict[str, Any]:
    """The row, its messages checked to be a list of objects. Raises ValidationError."""
    messages = row.get("messages")
    if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
        return row
    return {**row, "messages": msgspec.convert(row, _Messages).messages}


def _remove_fields(messages: list[Message], ignored: frozenset[str]) -> None:
    for message in messages:
        for key in ignored.intersection(message):
            del message[key]


def _not_trained(row: dict[str, Any]) -> str | None:
    """Why the row is not to be trained on, by its own or its final turn's marks."""
    for holder, what in ((row["messages"][-1], "the final turn"), (row, "the row")):
        weight = holder.get("weight")
        if isinstance(weight, int | float) and weight == 0:
            return f"{what} has `weight` 0"
        for key in _NOT_TRAINED:
            if holder.get(key) is False:
                return f"{what} has `{key}` false"
    weight = row["messages"][-1].get("weight")
    if isinstance(weight, int | float) and weight != 1:
        hint = "leave it out, or write 0 for a row that is not to be trained on"
        raise Malformed(f"the final turn has `weight` {weight}: only 0 and 1 are supported", hint)
    return None


def _text_fields(row: dict[str, Any], messages: list[Message]) -> Iterator[TextField]:
    for key in row.keys() - _ROW_FIELDS - METADATA_FIELDS:
        if carries_text(row[key]) and not _repeats_message(row[key], messages):
            yield TextField(key)
    for message in messages:
        for key in message.keys() - _MESSAGE_FIELDS - METADATA_FIELDS:
            yield from _message_field(message, key)
        if isinstance(message.get("content"), list):
            yield from _inner_fields(message["content"], _PART_FIELDS)
        for call in message.get("tool_calls") or ():
            yield from _inner_fields([call], _CALL_FIELDS)
            if isinstance(call.get("function"), dict):
                yield from _inner_fields([call["function"]], _FUNCTION_FIELDS)


def _message_field(message: Message, key: str) -> Iterator[TextField]:
    value = message[key]
    if not carries_text(value):
        return
    if key == "name" and message["role"] == "tool":  # it names the function that was called
        return
    if not isinstance(value, str):
        yield TextField(key)
    elif key not in REASONING or message["role"] != "assistant":
        yield TextField(key, (value.strip(),))


def _inner_fields(objects: list[dict[str, Any]], known: frozenset[str]) -> Iterator[TextField]:
    for one in objects:
        for key in one.keys() - known:
            if carries_text(one[key]):
                yield TextField(key)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts_in(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key not in _NAMES:
                yield from _texts_in(one)


def _repeats_message(value: Any, messages: list[Message]) -> bool:
    """Whether a text is also the whole content of a message, as `prompt` often is."""
    if not isinstance(value, str):
        return False
    contents = (message.get("content") for message in messages)
    return any(isinstance(text, str) and text.strip() == value.strip() for text in contents)
