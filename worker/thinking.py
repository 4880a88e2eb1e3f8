"""The tags of a think block, and what of a response stands after it.

Everything works on decoded text, because `</think>` is not one token everywhere (Olmo-3: three).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ThinkTags:
    """The text that opens and closes a think block.

    `open_is_derived`: the opening tag follows from the closing one. Where it does not, `open` is
    the usual `<think>`, and a block counts as open only where the prompt opens it.
    """

    open: str
    close: str
    open_is_derived: bool = True

    @classmethod
    def closed_by(cls, close: str | None) -> ThinkTags:
        """The tags that belong to a closing one: `</think>` if none is given, `[/THINK]`, …"""
        close = close or "</think>"
        if "/" in close:
            return cls(close.replace("/", "", 1), close)
        return cls("<think>", close, open_is_derived=False)

    def left_open(self, text: str, *, opened: bool = False) -> bool:
        """Whether `text` ends inside a think block; `opened`: it began inside one."""
        last_close = text.rfind(self.close)
        if opened and last_close < 0:
            return True
        return self.open_is_derived and text.rfind(self.open) > last_close


def think_tags(think_end_token: str | None) -> ThinkTags | None:
    """The tags of `eval.think_end_token`; None where the spec says that no thinking is marked."""
    return None if think_end_token is None else ThinkTags.closed_by(think_end_token)


def answer_text(response: str, tags: ThinkTags | None, *, opened: bool) -> str | None:
    """The part of a response that may hold the answer.

    Args:
        response: the decoded generation, special tokens of the block included.
        tags: the block's tags; None means that all of the response is read.
        opened: whether the end of the prompt already opened the block.

    Returns:
        The text after the last closing tag; all of it where no block was ever opened; None where a
        block was opened and never closed.
    """
    if tags is None:
        return response
    if tags.left_open(response, opened=opened):
        return None
    return response.rpartition(tags.close)[2]
