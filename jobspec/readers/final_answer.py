r"""Finds the place in a response where it gives its answer.

In order: the last `\boxed{…}`, an `<answer>` tag, the last phrase such as `The answer is …`, a
response that is nothing but an answer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from jobspec.readers.latex_text import closing_brace

BOX, TAG, PHRASE, BARE, SENTENCE = "box", "answer tag", "phrase", "bare answer", "last sentence"
_MOST_BOXES = 64
_LONGEST_CLAUSE = 300
_JOINED = 75
_OPENING = re.compile(r"(?:\$\$?|\\[(\[])\s*$")
_PERCENT = re.compile(r"\s*(?:\$\$?|\\[)\]])?\s*(?:\\?%|[Pp]ercent|[Pp]ct)|\s*(?:\$\$?|\\[)\]])")

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
# What follows `\boxed` without braces: a number or a letter, but no word of a sentence.
_UNBRACED = re.compile(r"\s*(\\[a-zA-Z]+|[+-]?\d[^\s$\\{},;:!?)\]]*|[a-zA-Z](?![a-zA-Z]))")
_TAG = re.compile(r"<answer>\s*(.{0,2000}?)\s*</answer>", re.DOTALL | re.IGNORECASE)
_BETWEEN = re.compile(
    r"(?:[\s$,;]|\\[()\[\]]|\b(?:and|or|und|oder|et|ou|y|o)\b|和|或|[、，]"
    r"|[A-Za-z](?:_\{?\w+\}?)?\s*=)*"
)

_MARK = r"(?:\*\*|__|[*`#]|\\textbf\{)*"
_NOUN = (
    r"(?:answer|ans(?=[.:\s])|antwort|ergebnis|lösung|respuesta|réponse|resposta|risposta|antwoord"
    r"|svar|odpowiedź|odpověď|răspuns(?:ul)?|válasz|cevap|yanıt|jawaban|đáp (?:án|số)|ответ"
    r"|відповідь|απάντηση|الجواب|الإجابة|תשובה|उत्तर|答案|答え|答|정답|답)"
)
_IS = (
    r"(?:\bis\b|\bare\b|\bequals\b|\bist\b|\blautet\b|\bes\b|\best\b|\bè\b|\bé\b|\bär\b|\bto\b"
    r"|\bbeträgt\b|\bwould be\b|\bmust be\b|\bwill be\b|\bshould be\b|=|:|：|是|为|為|は|이?[은는]"
    r"|هو|هي|—|–|-(?=\s))"
)
# `Answer: 70`, `the final answer to this question is 70`, `**Final Answer**` above its line.
_PHRASE = re.compile(
    rf"{_NOUN}(?![a-z])\.?[ \t]*{_MARK}\}}?[ \t]*"
    rf"(?:(?:[^\n.:=\\$\d]{{0,60}}?[ \t]*)?{_IS}|(?=[ \t]*[*_}}]*[ \t]*\n))",
    re.IGNORECASE,
)
_NOT_MORE = re.compile(r"\s*[:：]?\s*(?:\*\*|__|[*`])*\s*[:：]?\s*")
# Where the clause that holds the answer ends.
_CLAUSE_END = re.compile(
    r"(?<!\d)[.。](?=\s|$|[*_$])|(?<=\d)[.。](?=\s|$|[*_$\\])|[;；。？?\n]"
    r"|[,，]\s+(?!(?:and|or|und|oder|et|ou|y)\b)(?=[^\W\d_]{2,})"
    r"|\s[(（](?=[^\W\d_]{2,}\s)|\s(?:because|since|as|which|where|so|for|when|weil|denn|car|porque)\b"
)


class Found(NamedTuple):
    """A place that holds an answer: its text and the rule that found it."""

    text: str
    rule: str


class Boxes(NamedTuple):
    """The boxes of a response: contents of the last one and of those listed before it.

    `cut`: the last box is not complete, so that there is no answer.
    """

    contents: tuple[str, ...]
    start: int
    end: int
    cut: bool = False


def boxes(text: str) -> Boxes | None:
    r"""The last box, with those that are joined to it by a comma, `and` or `or`.

    A `\boxed` without a content, as in `I used \boxed as asked`, is not a box.
    """
    contents: list[str] = []
    start = end = len(text)
    for place in _box_places(text):
        content, stop = _content(text, place)
        if content is None:
            if not contents:
                return Boxes((), place, len(text), cut=True)
            break
        if not content.strip():
            continue
        if contents and stop > start:  # the earlier box contains the later one
            start = place
            end = max(end, stop)
            continue
        if contents and not _BETWEEN.fullmatch(text, stop, start):
            break
        if not contents:
            end = stop
        contents.insert(0, content)
        start = place
    return Boxes(tuple(contents), start, end) if contents else None


def _box_places(text: str) -> list[int]:
    """The last places of `\\boxed`, the last one first."""
    return [found.start() for found in _BOX.finditer(text)][: -_MOST_BOXES - 1 : -1]


def _content(text: str, place: int) -> tuple[str | None, int]:
    """The content of the box at `place` and where it ends; None if the box is cut off."""
    named = _BOX.match(text, place)
    assert named is not None
    at = named.end()
    while at < len(text) and text[at].isspace():
        at += 1
    if at == len(text):
        return None, at
    if text[at] == "{":
        end = closing_brace(text, at)
        return (None, len(text)) if end is None else (text[at + 1 : end], end + 1)
    bare = _UNBRACED.match(text, named.end())
    if bare is None:
        return "", named.end()
    return bare.group(1).rstrip("."), bare.end()


def tagged(text: str) -> str | None:
    """The content of the last `<answer>…</answer>`."""
    found = _TAG.findall(text[-20_000:])
    return found[-1] if found else None


def phrase(text: str) -> str | None:
    """The clause after the last phrase that announces an answer; None without such a phrase."""
    tail = text[-20_000:]
    clause = None
    for found in _PHRASE.finditer(tail):
        clause = clause_at(tail, found.end())
    return clause


def clause_at(text: str, start: int) -> str:
    """The first line of text after `start`, up to the end of its first clause."""
    skipped = _NOT_MORE.match(text, start)
    at = skipped.end() if skipped else start
    rest = text[at : at + _LONGEST_CLAUSE].lstrip()
    for opening, closing in (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$")):
        if rest.startswith(opening):
            # A formula on lines of its own is one clause.
            end = rest.find(closing, len(opening))
            if end > 0:
                formula = " ".join(rest[:end].split())
                return formula + _clause(rest[end:])
    return _clause(rest)


def _clause(rest: str) -> str:
    found = _CLAUSE_END.search(rest)
    if found is None:
        return rest
    return rest[: found.end() if found.group(0) in ("?", "？") else found.start()]


def last_sentence(text: str) -> str | None:
    """The last sentence of the last paragraph that holds a digit."""
    paragraph = re.split(r"\n\s*\n", text[-4000:].strip())[-1]
    sentences = re.split(r"(?<=[.!?。])\s+|\n", paragraph)
    with_digits = [each for each in sentences if re.search(r"\d", each)]
    return with_digits[-1][-_LONGEST_CLAUSE:] if with_digits else None


class Located(NamedTuple):
    """Where a response gives its answer.

    `latex`: the answer as it is written; None if no rule found one. `context`: the part of the
    response in which math_verify reads the same as in all of it.
    """

    latex: str | None
    rule: str | None
    context: str


def locate(text: str) -> Located:
    """The place of an answer of any kind: a number, a formula, a set, a word."""
    found = boxes(text)
    if found is not None:
        latex = None if found.cut else ", ".join(found.contents)
        return Located(latex, BOX, _around_box(text, found))
    tag = tagged(text)
    if tag is not None:
        return Located(tag, TAG, text)
    clause = phrase(text)
    if clause is not None and clause.strip():
        return Located(clause, PHRASE, text)
    if len(text) <= _LONGEST_CLAUSE and "\n" not in text.strip() and text.strip():
        return Located(text.strip(), BARE, text)
    return Located(None, None, text)


def _around_box(text: str, found: Boxes) -> str:
    r"""The last box, with whatever math_verify reads together with it.

    It joins boxes that are at most 70 characters apart, multiplies by a percent sign after a
    formula, and prefers a formula after `final answer is` if it comes later. The rest is left out,
    so that equal answers of different responses are compared once.
    """
    if re.search(r"final answer", text[found.end :], re.IGNORECASE):
        return text
    start = found.start
    for place in _box_places(text):
        content, end = _content(text, place)
        if place < start and content is not None and start - end <= _JOINED:
            start = place
    if len(_box_places(text[start : found.end])) > 1:
        start = text.rfind("\n", 0, start) + 1  # formulas between boxes need their first `$`
    opening = _OPENING.search(text, max(0, start - 4), start)
    percent = _PERCENT.match(text, found.end)
    return text[opening.start() if opening else start : percent.end() if percent else found.end]
