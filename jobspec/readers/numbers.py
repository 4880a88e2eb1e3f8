"""Reads a number of any kind: `1,234.50`, `-3/4`, `$18`, `3.5 km`, `1.2 \\times 10^3`.

Two spellings of a number have the same value. Numbers that would have to be computed (`7!`,
`2 + 3`) or that are one of several are not read. `integers` has the stricter rules of AIME.
"""

from __future__ import annotations

import re
from fractions import Fraction

from jobspec.readers import final_answer
from jobspec.readers.final_answer import BARE, BOX, PHRASE, SENTENCE, TAG
from jobspec.readers.integers import (
    RELATION,
    WORD,
    between,
    changes_number,
    mark_prose,
    marked,
    unmarked,
    unwrap,
)
from jobspec.readers.latex_text import MOST_CHARACTERS
from jobspec.readers.reading import Answer

HASHES = "after ####"
_MOST_DIGITS = 40

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?![\d])|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_POWER_OF_TEN = (
    r"(?:[eE]([+-]?\d{1,2})|\s*(?:\\times|\\cdot|[×*·x])\s*10\s*\^\s*\{?\s*([+-]?\d{1,2})\s*\}?)"
)
_FRACTION = (
    r"(?:\\[dtc]?frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))|(\d+)\s*/\s*(\d+))"
)
_BEFORE = re.compile(rf"{WORD}|[\s,:;\"'“”‘’|€£¥#]|\.(?!\d)")
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*[€£¥]?\s*"
    rf"(?:(?P<whole>\d+\s*)??(?P<fraction>{_FRACTION})|(?P<decimal>{_DECIMAL}){_POWER_OF_TEN}?)"
)
_WRITTEN = re.compile(rf"(?<![\w.])-?{_DECIMAL}(?:/\d+)?(?!\w)")
_AFTER_HASHES = re.compile(r"^####[ \t]*(.+)$", re.MULTILINE)


def read_number(text: str) -> Answer:
    """The number that a response gives as its answer, by the first rule that finds a place."""
    found = final_answer.boxes(text)
    if found is not None:
        values = {number_in(content) for content in found.contents}
        value = values.pop() if len(values) == 1 and not found.cut else None
        return Answer(value, BOX, ", ".join(found.contents) or None)
    for rule, place in (
        (TAG, final_answer.tagged(text)),
        (HASHES, next(reversed(_AFTER_HASHES.findall(text[-MOST_CHARACTERS:])), None)),
        (BARE, text if _is_bare(text) else None),
    ):
        if place is not None:
            return Answer(number_in(place), rule, place.strip())
    clause = final_answer.phrase(text)
    if clause is not None and (re.search(r"\d", clause) or changes_number(clause)):
        return Answer(number_in(mark_prose(clause)), PHRASE, clause.strip())
    sentence = final_answer.last_sentence(text)
    return Answer() if sentence is None else _in_sentence(sentence)


def _is_bare(text: str) -> bool:
    """Whether a response is one sentence with one number."""
    return not re.search(r"[.!?]\s|\n", text.strip()) and number_in(text) is not None


def number_in(latex: str) -> str | None:
    """The number that a formula or a clause gives, in its shortest spelling; None without one."""
    if len(latex) > MOST_CHARACTERS:
        return None
    text = marked(latex)
    if changes_number(text) or "?" in text:
        return None
    sides = [_value(side) for side in RELATION.split(text)]
    if sides[-1] is not None:
        return _spelled(sides[-1])
    rest = RELATION.split(text)[1:]
    alone = sides[0] is not None and not any(re.search(r"\d", side) for side in rest)
    return _spelled(sides[0]) if alone and sides[0] is not None else None


def _in_sentence(sentence: str) -> Answer:
    """The only number of a sentence, or the one after its last equals sign."""
    read = sentence.strip()
    last = RELATION.split(marked(sentence))[-1]
    for part in (sentence, last):
        written = {number_in(each) for each in _WRITTEN.findall(part)}
        if len(written) == 1 and not changes_number(sentence):
            return Answer(written.pop(), SENTENCE, unmarked(read))
    return Answer(None, SENTENCE, unmarked(read))


def _value(side: str) -> Fraction | None:
    found = between(_BEFORE, _NUMBER, unwrap(side.strip()))
    if found is None or len(found.group(0)) > 10 * _MOST_DIGITS:
        return None
    value = _fraction(found) if found["fraction"] else _decimal(found)
    return None if value is None else -value if found["sign"] == "-" else value


def _fraction(found: re.Match[str]) -> Fraction | None:
    parts = re.findall(r"\d+", re.sub(r"frac\s*(\d)\s*(\d)", r"\1 \2", found["fraction"]))
    above, below = map(int, parts)
    whole = int(found["whole"]) if found["whole"] else 0
    return None if below == 0 else whole + Fraction(above, below)


def _decimal(found: re.Match[str]) -> Fraction:
    digits = re.sub(r"[, ]", "", found["decimal"]).rstrip(".")
    power = next((each for each in found.groups()[-2:] if each), None)
    return Fraction(digits) * Fraction(10) ** int(power or 0)


def _spelled(value: Fraction) -> str:
    """`3`, `3.5`, or `1/3` where the decimals never end."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return str(value)
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    digits = str(abs(value.numerator * 10**places // value.denominator)).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)
