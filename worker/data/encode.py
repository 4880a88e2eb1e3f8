"""Turns one row of a data file into verified text, token ids and labels, or says why it can't.

Loss is computed on the final assistant turn only, including its reasoning: from the first token
after the turn's header to its end-of-turn token. If the generation prompt opens the reasoning, that
part is trained too. The prompt and the rest of the turn are tokenized separately, `input_ids =
tokens(generation prompt) + tokens(rest)`, so the prefix has the same tokens as at inference.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from worker.data import render_check
from worker.data.chat_template import ChatTemplate, RenderError, common_prefix
from worker.data.dataset_cache import IGNORED
from worker.data.tokenizer import Codec
from worker.rows.messages import Message
from worker.rows.row import ChatRow
from worker.thinking import ThinkTags


class DropKind(StrEnum):
    """Why a row is dropped."""

    MALFORMED = "malformed"
    NOT_TRAINED = "not_trained"
    OVER_LONG = "over_long"
    NO_THINKING = "no_thinking"
    UNCLOSED_THINKING = "unclosed_thinking"
    TEMPLATE_REFUSED = "template_refused"
    PROMPT_NOT_A_PREFIX = "prompt_not_a_prefix"
    LOST_IN_RENDERING = "lost_in_rendering"
    NO_END_TOKEN = "no_end_token"
    END_TOKEN_INSIDE = "end_token_inside"
    TOKENS_DIFFER = "tokens_differ"
    NOT_EMBEDDED = "not_embedded"


# If all rows are dropped for one of these, the template is the cause.
TEMPLATE_KINDS = (
    DropKind.TEMPLATE_REFUSED,
    DropKind.PROMPT_NOT_A_PREFIX,
    DropKind.LOST_IN_RENDERING,
    DropKind.NO_END_TOKEN,
)


@dataclass(frozen=True, slots=True)
class RowEncoder:
    """Everything that is needed to turn a row into tokens.

    Attributes:
        embedded: how many tokens the model embeds, if that is known.
    """

    template: ChatTemplate
    codec: Codec
    tags: ThinkTags
    max_length: int
    require_think: bool = False
    embedded: int | None = None


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A verified row. Tokens before `start` are context, with the label −100.

    Attributes:
        unrendered: names of fields that carry text which the template did not render.
    """

    text: str
    input_ids: list[int]
    start: int
    has_thinking: bool
    thinking_dropped: int
    unrendered: tuple[str, ...] = ()

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


def encode_row(row: ChatRow, encoder: RowEncoder) -> EncodedRow | RefusedRow:
    """Render, tokenize and verify one row."""
    if row.not_trained is not None:
        return RefusedRow(DropKind.NOT_TRAINED, row.not_trained)
    messages = render_check.without_repeated_thinking(row.messages, encoder.tags, encoder.template)
    if messages is None:
        why = "a turn has reasoning in a field of its own and other reasoning in its content"
        return RefusedRow(DropKind.MALFORMED, why)
    rendered = _render(messages, row.tools, encoder)
    if isinstance(rendered, RefusedRow):
        return rendered
    text, header_end = rendered.text, rendered.header_end
    checked = render_check.trace(messages, row.tools, text, header_end, encoder.tags)
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
    if encoder.embedded is not None and (highest := max(input_ids)) >= encoder.embedded:
        why = (
            f"the token `{encoder.codec.token(highest)}` has the id {highest}, but the model "
            f"embeds {encoder.embedded} tokens"
        )
        return RefusedRow(DropKind.NOT_EMBEDDED, why, text)
    thinks = bool(rendered.thought or written)
    unrendered = render_check.unrendered_fields(row.text_fields, text, encoder.template)
    return EncodedRow(text, input_ids, start, thinks, checked.thinking_dropped, unrendered)


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A rendered row. The final turn begins at `header_end`, at or before the prompt's end."""

    prompt: str
    text: str
    header_end: int
    thought: str | None


def _render(
    messages: list[Message], tools: list[Any] | None, encoder: RowEncoder
) -> _Rendered | RefusedRow:
    rendered = _render_once(messages, tools, encoder)
    if isinstance(rendered, RefusedRow) and rendered.kind is DropKind.TEMPLATE_REFUSED:
        # DeepSeek's templates, for one, write arguments only if they are text.
        as_text = render_check.with_arguments_as_text(messages)
        return rendered if as_text is None else _render_once(as_text, tools, encoder)
    return rendered


def _render_once(
    messages: list[Message], tools: list[Any] | None, encoder: RowEncoder
) -> _Rendered | RefusedRow:
    context, final, tags = messages[:-1], messages[-1], encoder.tags
    try:
        prompt = encoder.template.render(context, tools, prompt=True)
        text = encoder.template.render(messages, tools, prompt=False)
        opening = encoder.template.opening(context, tools, prompt, tags)
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
