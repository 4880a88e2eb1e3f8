"""Reads answers that are words, and programs: for the readers `exact`, `regex` and `code`."""

from __future__ import annotations

import re

from jobspec.readers.final_answer import BARE, BOX, boxes, locate
from jobspec.readers.latex_text import MOST_CHARACTERS, plain_latex
from jobspec.readers.reading import Answer

LAST_LINE, BLOCK = "last line", "code block"
_BLOCK = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*\1", re.MULTILINE | re.DOTALL
)
_OPEN_BLOCK = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[ \t]*[\w+-]*[^\n]*\n", re.MULTILINE)
# How a program begins; a sentence does not.
_CODE = re.compile(
    r"\s*(?:#.*\n\s*)*(?:def \w|class \w|import \w|from \w+ import|print\(|@\w|\w+ = )"
)
_PYTHON = ("python", "py", "python3")


def plain_text(text: str) -> str:
    """A text without markup, quotes, a final full stop, and differences of case and spaces."""
    words = plain_latex(text) if len(text) <= MOST_CHARACTERS else text
    words = re.sub(r"\\text\{([^{}]*)\}", r"\1", words)
    words = re.sub(r"[*_`\"“”„«»]+|(?<!\w)['‘’]|['‘’](?!\w)", "", words)
    return " ".join(words.split()).strip(" .").casefold()


def read_text(text: str) -> Answer:
    """The text in the last box or answer tag, after the last phrase, or else on the last line."""
    place = locate(text)
    if place.rule == BOX and place.latex is None:
        return Answer(None, BOX)
    found = boxes(text)
    if found is not None and len(found.contents) > 1:
        return Answer(None, BOX, place.latex)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if place.latex is None and not lines:
        return Answer()
    rule = LAST_LINE if place.latex is None else place.rule
    read = lines[-1] if place.latex is None else place.latex
    return Answer(plain_text(read) or None, rule, read.strip())


def read_program(text: str) -> Answer:
    """The last complete Python block of a response; without any block, a response that is code."""
    blocks = [(found[2].lower(), found[3]) for found in _BLOCK.finditer(text)]
    named = [code for language, code in blocks if language in _PYTHON]
    codes = named or [code for language, code in blocks if not language]
    if codes:
        return Answer(codes[-1], BLOCK, codes[-1])
    if _OPEN_BLOCK.search(text):
        return Answer(None, BLOCK)
    return Answer(text, BARE, text) if _CODE.match(text) else Answer()
