"""Reading answers out of responses: what is said after thinking, and the answer in it.

Everything works on decoded text, because `</think>` is not one token everywhere (Olmo-3: three).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PHRASE = re.compile(
    r"(?:final\s+answer|answer)\s*(?:\*\*|__)?\s*(?:is|are|=|:)(?:\s*(?:\*\*|__))?\s*:?",
    re.IGNORECASE,
)
_SPACING = re.compile(
    r"\\[,;:!> ]|\\q?quad\b|\\(?:thin|med|thick)?space\b|~|&nbsp;|[\s\u00a0\u2009]"
)
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathbf|mathrm|mathit|mathsf|boldsymbol|bm|mbox"
    r"|hbox|operatorname|displaystyle|underline|fbox|boxed)\b\s*"
)
_UNIT = re.compile(
    r"(?:\\%|%|\\circ|\^\\circ|\^{\\circ}|°|\\degree|degrees?|units?|minutes?|hours?|days?|ways?"
    r"|points?|square|cubic|inche?s?|feet|cm|km|m|meters?|miles?|cents?|dollars?|pairs?|triples?"
    r"|tuples?|integers?|people|solutions?|sequences?|residents?|\.)+$",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"0*[0-9]{1,3}")
_LEADING_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class Thinking:
    """The tags of a think block. `opens` is None where it can't be told from the closing one."""

    opens: str | None
    closes: str

    @classmethod
    def from_end(cls, think_end_token: str | None) -> Thinking | None:
        """`</think>` → `<think>…</think>`; `[/THINK]` → `[THINK]…[/THINK]`; None → None."""
        if think_end_token is None:
            return None
        opens = think_end_token.replace("/", "", 1) if "/" in think_end_token else None
        return cls(opens, think_end_token)

    def left_open(self, text: str, *, opened: bool = False) -> bool:
        """Whether `text` ends inside a think block; `opened`: it began inside one."""
        last_close = text.rfind(self.closes)
        if self.opens is None:
            return opened and last_close < 0
        return text.rfind(self.opens) > last_close or (opened and last_close < 0)


def answer_text(response: str, thinking: Thinking | None, *, opened: bool) -> str | None:
    """What of a response may hold the answer.

    Args:
        response: the decoded generation, special tokens of the block included.
        thinking: the block's tags; None reads everything.
        opened: whether the prompt's own tail already opened the block.

    Returns:
        The text after the last close; all of it where no block was ever opened; None where a block
        was opened and never closed.
    """
    if thinking is None:
        return response
    if thinking.left_open(response, opened=opened):
        return None
    return response.rpartition(thinking.closes)[2]


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}`, `\boxed 7` or `\fbox{…}`; None if cut off or absent."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[start:].split("boxed" if text.startswith("\\boxed", start) else "fbox", 1)[1]
    body = rest.lstrip()
    if body.startswith("{"):
        end = _closing_brace(body)
        return None if end is None else body[1:end]
    bare = re.match(r"[^\s$\\{},.;:!?)\]]+", body)
    return bare.group(0) if bare else None


def _closing_brace(text: str) -> int | None:
    """Where the brace that opens `text` closes; escaped braces do not count."""
    depth = 0
    escaped = False
    for position, char in enumerate(text):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return position
    return None


def aime_answer(text: str) -> str | None:
    """The integer from 0 to 999 a text gives as its answer, without leading zeros.

    The last box decides, complete or not; without any box, the last final-answer phrase does.
    """
    if "\\boxed" in text or "\\fbox" in text:
        content = boxed(text)
        return None if content is None else _integer(content)
    phrases = list(_PHRASE.finditer(text))
    return _integer_after(text[phrases[-1].end() :]) if phrases else None


def _integer(latex: str) -> str | None:
    r"""An integer written alone: `070`, `m+n = 70`, `\textbf{70}`, `70^\circ`, `\$70`."""
    inner = boxed(latex)
    if inner is not None:
        return _integer(inner)
    text = re.split(r"=|\\approx|\\equiv", latex)[-1]
    text = _WRAPPER.sub("", text)
    text = _SPACING.sub("", text)
    text = text.replace("\\$", "").replace("$", "").replace("*", "")
    text = text.replace("\\(", "").replace("\\)", "").replace("\\[", "").replace("\\]", "")
    text = text.replace("^{\\circ}", "").replace("{", "").replace("}", "")
    text = _UNIT.sub("", text)
    text = re.sub(r"\.0*$", "", text)
    return str(int(text)) if text.isascii() and _NUMBER.fullmatch(text) else None


def _integer_after(rest: str) -> str | None:
    """The integer a final-answer phrase ends in: the first thing it names, up to the line's end."""
    lines = rest.lstrip(" \t\n*:$").splitlines()
    line = lines[0] if lines else ""
    whole = _integer(re.split(r"[.,;](?:\s|$)", line)[0])
    if whole is not None:
        return whole
    line = re.split(r"=", line)[-1].lstrip(" $*\\(")
    number = _LEADING_NUMBER.match(line)
    if number is None or re.match(r"\s*[/^.,][0-9{]|\s*[+*/^-]|\s*or\b", line[number.end() :]):
        return None
    return _integer(number.group(0))
