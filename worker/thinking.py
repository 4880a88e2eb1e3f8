"""The tags of a think block, and the part of a response after it.

This works on decoded text, because `</think>` is several tokens in some models (Olmo-3). Where the
tags are single tokens, `worker.inference.decode` finds the end of the thinking in the tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# gpt-oss writes its reasoning and its answer into channels instead of between tags.
_CHANNEL = "<|channel|>"
_FINAL_CHANNEL = re.compile(r"<\|channel\|>final.{0,100}?<\|message\|>", re.DOTALL)
_END_OF_MESSAGE = re.compile(r"<\|(?:end|return|start|channel|call)\|>")
_MENTIONS = " \t`'\"“‘(["  # what stands before a tag that a sentence mentions
# Pairs of words in tags without a slash: `<|begin_of_thought|>` and `<|end_of_thought|>`.
_PAIRS = (("end", "begin"), ("END", "BEGIN"), ("stop", "start"), ("close", "open"))


@dataclass(frozen=True)
class ThinkTags:
    """The text that opens and closes a think block.

    `open_is_derived`: the opening tag was derived from the closing one. Otherwise `open` is
    `<think>`, and a block counts as open only if the prompt opens it.
    """

    open: str
    close: str
    open_is_derived: bool = True

    @classmethod
    def closed_by(cls, close: str | None) -> ThinkTags:
        """The tags with this closing tag, e.g. `[/THINK]`; by default `</think>`."""
        close = close or "</think>"
        if "/" in close:
            return cls(close.replace("/", "", 1), close)
        is_tag = not close[0].isalnum() and not close[-1].isalnum()
        for end, begin in _PAIRS if is_tag else ():
            if end in close:
                return cls(close.replace(end, begin, 1), close)
        return cls("<think>", close, open_is_derived=False)

    def left_open(self, text: str) -> bool:
        """Whether a prompt ends inside a think block."""
        return self.open_is_derived and text.rfind(self.open) > text.rfind(self.close)


def think_tags(think_end_token: str | None) -> ThinkTags | None:
    """The tags for `eval.think_end_token`; None if the spec says that reasoning is not marked."""
    return None if think_end_token is None else ThinkTags.closed_by(think_end_token)


def uses_channels(response: str) -> bool:
    """Whether a response is written in the channels of gpt-oss (Harmony)."""
    return response.lstrip().startswith(_CHANNEL)


def answer_text(response: str, tags: ThinkTags | None, *, opened: bool) -> str | None:
    """The part of a response that may hold the answer.

    Args:
        response: the decoded generation, including the tags.
        tags: the tags of the block; None to read the whole response.
        opened: whether the prompt opened the block.

    Returns:
        The text after the last think block; the whole text if no block was opened; None if a block
        was opened but not closed.
    """
    if tags is None:
        return response
    if uses_channels(response):
        return _final_channel(response)
    parts: list[str] = []
    at = 0
    inside = opened
    while True:
        if inside:
            end = response.find(tags.close, at)
            if end < 0:
                return None
            at, inside = end + len(tags.close), False
        start = _opening(response, tags, at)
        if start is None:
            break
        parts.append(response[at:start])
        at, inside = start + len(tags.open), True
    if at == 0 and tags.close in response:  # the block was opened where the response does not show
        at = response.index(tags.close) + len(tags.close)
    parts.append(response[at:])
    written = [part for part in parts if part.strip()]
    return written[-1] if at and written else parts[-1]


def _opening(response: str, tags: ThinkTags, at: int) -> int | None:
    """Where the next think block opens after `at`. A tag that a sentence mentions opens none."""
    if not tags.open_is_derived:
        return None
    start = response.find(tags.open, at)
    while start >= 0:
        if _opens(response, start, start + len(tags.open), tags.close):
            return start
        start = response.find(tags.open, start + 1)
    return None


def _opens(response: str, start: int, end: int, close: str) -> bool:
    """Whether the tag from `start` to `end` opens a block: alone on its line, or before a close."""
    if not response[:start].strip():
        return True
    before = response[response.rfind("\n", 0, start) + 1 : start]
    if before.strip():
        return before[-1] not in _MENTIONS
    return not response[end:].partition("\n")[0].strip() or close in response[end:]


def _final_channel(response: str) -> str | None:
    """The last message of the channel `final`; None if there is none."""
    found = list(_FINAL_CHANNEL.finditer(response))
    if not found:
        return None
    start = found[-1].end()
    end = _END_OF_MESSAGE.search(response, start)
    return response[start : end.start() if end else len(response)]
