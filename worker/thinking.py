"""The tags of a think block, and the part of a response after it.

Everything works on decoded text, because `</think>` is several tokens in some models (Olmo-3).
"""

from __future__ import annotations

from dataclasses import dataclass


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
        return cls("<think>", close, open_is_derived=False)

    def left_open(self, text: str, *, opened: bool = False) -> bool:
        """Whether `text` ends inside a think block. `opened`: it starts inside one."""
        last_close = text.rfind(self.close)
        if opened and last_close < 0:
            return True
        return self.open_is_derived and text.rfind(self.open) > last_close


def think_tags(think_end_token: str | None) -> ThinkTags | None:
    """The tags for `eval.think_end_token`; None if the spec says that reasoning is not marked."""
    return None if think_end_token is None else ThinkTags.closed_by(think_end_token)


def answer_text(response: str, tags: ThinkTags | None, *, opened: bool) -> str | None:
    """The part of a response that may hold the answer.

    Args:
        response: the decoded generation, including the tags.
        tags: the tags of the block; None to read the whole response.
        opened: whether the prompt opened the block.

    Returns:
        The text after the last closing tag; the whole text if no block was opened; None if a block
        was opened but not closed.
    """
    if tags is None:
        return response
    if tags.left_open(response, opened=opened):
        return None
    return response.rpartition(tags.close)[2]
