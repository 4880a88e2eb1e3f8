"""Turns one row of a data file into verified text, token ids and labels, or says why it can't.

Loss is computed on the final assistant turn only, including its reasoning: from the first token
after the turn's header to its end-of-turn token. If the generation prompt opens the reasoning, that
part is trained too. The prompt and the rest of the turn are tokenized separately, `input_ids =
tokens(generation prompt) + tokens(rest)`, so the prefix has the same tokens as at inference.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import DataError
from worker.data import render_check
from worker.data.chat_template import ChatTemplate, Message, RenderError, common_prefix
from worker.data.dataset_cache import IGNORED
from worker.data.tokenizer import Codec
from worker.thinking import ThinkTags


class DropKind(StrEnum):
    """Why a row is dropped."""

    OVER_LONG = "over_long"
    NO_THINKING = "no_thinking"
    UNCLOSED_THINKING = "unclosed_thinking"
    TEMPLATE_REFUSED = "template_refused"
    PROMPT_NOT_A_PREFIX = "prompt_not_a_prefix"
    LOST_IN_RENDERING = "lost_in_rendering"
    NO_END_TOKEN = "no_end_token"
    END_TOKEN_INSIDE = "end_token_inside"
    TOKENS_DIFFER = "tokens_differ"


# If all rows are dropped for one of these, the template is the cause.
TEMPLATE_KINDS = (
    DropKind.TEMPLATE_REFUSED,
    DropKind.PROMPT_NOT_A_PREFIX,
    DropKind.LOST_IN_RENDERING,
    DropKind.NO_END_TOKEN,
)


@dataclass(frozen=True, slots=True)
class ChatRow:
    """A well-formed row. `number` counts the file's lines from 1."""

    number: int
    messages: list[Message]
    tools: list[Any] | None

    @property
    def prompt_key(self) -> bytes:
        """A hash of all messages before the final turn, equal for rows with the same prompt."""
        data = msgspec.json.encode(self.messages[:-1], order="sorted")
        return hashlib.blake2b(data, digest_size=12).digest()


@dataclass(frozen=True, slots=True)
class RowEncoder:
    """Everything that is needed to turn a row into tokens."""

    template: ChatTemplate
    codec: Codec
    tags: ThinkTags
    max_length: int
    require_think: bool = False


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A verified row. Tokens before `start` are context, with the label −100."""

    text: str
    input_ids: list[int]
    start: int
    has_thinking: bool
    thinking_dropped: int

    @property
    def labels(self) -> list[int]:
        return [IGNORED] * self.start + self.input_ids[self.start :]


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A dropped row. `text` is the rendered text, if rendering succeeded."""

    kind: DropKind
    reason: str
    text: str = ""
    length: int | None = None


class _RawRow(msgspec.Struct):
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | str | None = None


_decode_row = msgspec.json.Decoder(_RawRow).decode
_decode_tools = msgspec.json.Decoder(list[dict[str, Any]]).decode


def parse_row(line: bytes, number: int, file: Path) -> ChatRow:
    """Parse one line. Raises DataError with the file and the row."""
    place = f"row {number}"
    try:
        raw = _decode_row(line)
        tools = raw.tools or None
        if isinstance(tools, str):
            tools = _decode_tools(tools)
    except msgspec.ValidationError as error:
        hint = 'a row is {"messages": [{"role": …, "content": …}, …]}, `tools` a list beside it'
        raise DataError(str(error), file=file, place=place, hint=hint) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = "each line holds one JSON object"
        message = f"not valid JSON: {error}"
        raise DataError(message, file=file, place=place, hint=hint) from error
    wrong = _malformed(raw.messages)
    if wrong is not None:
        raise DataError(wrong[0], file=file, place=place, hint=wrong[1])
    return ChatRow(number, raw.messages, tools)


def encode_row(row: ChatRow, encoder: RowEncoder) -> EncodedRow | RefusedRow:
    """Render, tokenize and verify one row."""
    rendered = _render(row, encoder)
    if isinstance(rendered, RefusedRow):
        return rendered
    text, header_end = rendered.text, rendered.header_end
    checked = render_check.trace(row.messages, row.tools, text, header_end, encoder.tags)
    if checked.lost is not None:
        return RefusedRow(DropKind.LOST_IN_RENDERING, checked.lost, text)
    written = render_check.first_block(text[header_end:], encoder.tags)
    if rendered.thought and written is not None and written != rendered.thought:
        why = f"the rendered turn starts with another think block: `{_shown(written)}`"
        return RefusedRow(DropKind.LOST_IN_RENDERING, why, text)
    end = _end_of_turn(text, max(checked.end, len(rendered.prompt)), encoder.codec)
    if end is None:
        return _no_end(text, encoder.codec)
    tokens = _tokenize(text[:end], rendered.prompt, header_end, encoder.codec)
    if isinstance(tokens, RefusedRow):
        return tokens
    input_ids, start = tokens
    if len(input_ids) > encoder.max_length:
        why = f"{len(input_ids)} tokens are more than max_length {encoder.max_length}"
        return RefusedRow(DropKind.OVER_LONG, why, text, len(input_ids))
    thinks = bool(rendered.thought or written)
    return EncodedRow(text, input_ids, start, thinks, checked.thinking_dropped)


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A rendered row. The final turn begins at `header_end`, at or before the prompt's end."""

    prompt: str
    text: str
    header_end: int
    thought: str | None


def _render(row: ChatRow, encoder: RowEncoder) -> _Rendered | RefusedRow:
    context, final, tags = row.messages[:-1], row.messages[-1], encoder.tags
    try:
        prompt = encoder.template.render(context, row.tools, prompt=True)
        text = encoder.template.render(row.messages, row.tools, prompt=False)
        opening = encoder.template.opening(context, row.tools, prompt, tags)
    except RenderError as error:
        return RefusedRow(DropKind.TEMPLATE_REFUSED, f"the template refuses the row: {error}")
    if render_check.is_unclosed(final, tags):
        why = f"the final turn opens `{tags.open}` but never closes it"
        return RefusedRow(DropKind.UNCLOSED_THINKING, why, text)
    thought = render_check.thinking(final, tags)
    if encoder.require_think and not thought:
        why = "the final turn has no reasoning, and `data.require_think` requires it"
        return RefusedRow(DropKind.NO_THINKING, why, text)
    rendered = _Rendered(prompt, text, len(prompt) - len(opening), thought)
    return rendered if text.startswith(prompt) else _not_a_prefix(rendered, tags)


def _malformed(messages: list[dict[str, Any]]) -> tuple[str, str] | None:
    """What is wrong with a row's messages, and a hint; None if nothing is."""
    hint = "a message is an object with `role` and `content`"
    for index, message in enumerate(messages):
        at = f"`messages[{index}]"
        if not isinstance(message.get("role"), str):
            return f"{at}.role` is not a text", hint
        if not _is_content(message.get("content")):
            return f"{at}.content` is neither a text, nor null, nor a list of parts", hint
        if not _is_list_of_objects(message.get("tool_calls")):
            return f"{at}.tool_calls` is not a list of objects", hint
    if not messages or messages[-1]["role"] != "assistant":
        last = (
            f"the last message is of role `{messages[-1]['role']}`" if messages else "no messages"
        )
        return f"no final assistant turn: {last}", "each row must end with the turn to train on"
    if len(messages) == 1:
        return "no prompt before the assistant turn", "put the message that it answers before it"
    final = messages[-1]
    if not any(final.get(key) for key in ("content", "tool_calls", "function_calls")):
        return "the final assistant turn is empty", "remove such rows"
    return None


def _is_content(content: Any) -> bool:
    return content is None or isinstance(content, str) or _is_list_of_objects(content)


def _is_list_of_objects(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)


def _not_a_prefix(rendered: _Rendered, tags: ThinkTags) -> RefusedRow:
    prompt, text = rendered.prompt, rendered.text
    opening, turn = prompt[rendered.header_end :], text[rendered.header_end :]
    at_header = bool(opening) and text.startswith(prompt[: rendered.header_end])
    if at_header and rendered.thought and rendered.thought not in turn:
        why = "the template drops the thinking of the final turn"
        return RefusedRow(DropKind.LOST_IN_RENDERING, why, text)
    if at_header and tags.close not in opening:
        why = (
            f"the template's generation prompt opens `{tags.open}`, but the final turn does not "
            "begin with it, so the model could never generate this turn at inference"
        )
        return RefusedRow(DropKind.NO_THINKING, why, text)
    same = common_prefix(prompt, text)
    why = (
        "the generation prompt is not a prefix of the rendered row, so the model would be trained "
        "on a prefix that never occurs at inference: "
        f"the prompt continues with `{_shown(prompt[same:])}` "
        f"where the row continues with `{_shown(text[same:])}`"
    )
    if at_header:
        why += (
            f" (the prompt ends with `{_shown(opening)}`, and the row's turn is `{_shown(turn)}`)"
        )
    return RefusedRow(DropKind.PROMPT_NOT_A_PREFIX, why, text)


def _end_of_turn(text: str, after: int, codec: Codec) -> int | None:
    """The position after the final turn's end-of-turn token; None if there is none.

    Only whitespace and more end tokens may follow it.
    """
    if not codec.eos_tokens:
        return None
    ends = "|".join(re.escape(token) for token in codec.eos_tokens)
    match = re.compile(ends).search(text, after)
    if match is None or not re.compile(rf"(?:\s|{ends})*").fullmatch(text, match.end()):
        return None
    return match.end()


def _no_end(text: str, codec: Codec) -> RefusedRow:
    known = ", ".join(f"`{token}`" for token in codec.eos_tokens) or "none is known"
    why = f"the rendered row ends in `{_shown(text[-24:])}`, not in an end token ({known})"
    return RefusedRow(DropKind.NO_END_TOKEN, why, text)


def _tokenize(
    text: str, prompt: str, header_end: int, codec: Codec
) -> tuple[list[int], int] | RefusedRow:
    """(ids, number of context tokens). The trained ids must decode to exactly the turn's text."""
    prompt_ids = codec.encode(prompt)
    rest_ids = codec.encode_rest(text[len(prompt) :])
    opened = _tokens_of_end(prompt_ids, prompt[header_end:], codec)
    if rest_ids is None or opened is None:
        why = "there is no token boundary between the turn's header and its first token"
        return RefusedRow(DropKind.TOKENS_DIFFER, why, text)
    ids, start = prompt_ids + rest_ids, len(prompt_ids) - opened
    supervised = ids[start:]
    spelled, turn = codec.spell(supervised), text[header_end:]
    # Some tokenizers (Qwen's) normalize accents. That is the same text in Unicode's NFC.
    if spelled not in (turn, unicodedata.normalize("NFC", turn)):
        same = common_prefix(spelled, turn)
        why = (
            f"the trained tokens decode to `{_shown(spelled[same:])}` "
            f"where the turn has `{_shown(turn[same:])}`"
        )
        return RefusedRow(DropKind.TOKENS_DIFFER, why, text)
    ends = set(codec.eos_tokens.values())
    if supervised[-1] not in ends:
        return _no_end(text, codec)
    if not ends.isdisjoint(supervised[:-1]):
        why = "the final turn contains an end-of-turn token, at which generation would stop"
        return RefusedRow(DropKind.END_TOKEN_INSIDE, why, text)
    return ids, start


def _tokens_of_end(ids: list[int], text: str, codec: Codec) -> int | None:
    """How many of the last ids decode to `text`; None if no number of them does."""
    for count in range(len(ids) + 1):
        spelled = codec.spell(ids[len(ids) - count :]) if count else ""
        if spelled == text:
            return count
        # Each incomplete byte of a character is decoded as this.
        if len(spelled.lstrip("\ufffd")) > len(text):
            return None
    return None


def _shown(text: str, limit: int = 48) -> str:
    shown = text[:limit].replace("\n", "\\n")
    return shown + "…" if len(text) > limit else shown
