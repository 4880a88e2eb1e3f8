"""Reads an integer that is written as one: `m+n = 70`, `70^\\circ`, `70 ordered pairs`.

Numbers that would have to be computed (`140/2`, `7!`), or that are one of several, are not read.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from jobspec.readers import final_answer
from jobspec.readers.final_answer import BARE, BOX, PHRASE, SENTENCE, TAG, Boxes
from jobspec.readers.latex_text import MOST_CHARACTERS, plain_latex

LARGEST = 999

# Words of a clause stand in « » (see `marked`); two letters or more are a word without them.
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_FORMULA = re.compile(r"(\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\])", re.DOTALL)
_WORD_OUTSIDE = re.compile(r"(?<![\d\\{^_«]|[^\W_])[^\W\d_]+(?!\d)")
WORD = r"(?:«[^«»]*»|[^\W\d_«»]{2,}(?![^\W\d_«»])|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])"
_LEADING = re.compile(rf"{WORD}|[\s.,:;\"'“”‘’|€£¥#]|-(?=\s*«)")
_POWER = r"(?:\s*\^\s*\{?[123]\}?|[²³])?"
_ORDINAL = r"\^\s*\{?\s*(?:«(?:th|st|nd|rd|o)»|th|st|nd|rd|o)\s*\}?"
_UNIT = re.compile(
    r"\^?\s*\{?\s*\\(?:circ|degree)\b\s*\}?|[°%€£¥.,:;\"'’”\s]|\\%"
    rf"|{_ORDINAL}|[-/]?\s*{WORD}{_POWER}|[(（]\s*(?:{WORD}\s*)+[)）]"
)
_BASE = r"(?:\s*_\s*(?:\{\s*(?:10|[^\d{}]*)\s*\}|[^\W\d]))?"
_NUMBER = re.compile(rf"\+?\s*([0-9]+)(?:\.0*(?!\d))?{_BASE}")
_FRACTION_BY_ONE = re.compile(r"\\[dtc]?frac\s*\{?\s*(\d+)\s*\}?\s*\{?\s*1\s*\}?(?!\d)")
RELATION = re.compile(
    r"(?<![<>!])=|\\equiv\b|\\approx\b|\\cong\b|\\implies\b|\\(?:Long|long)?[Rr]ightarrow\b|\\to\b"
    r"|\\colon\b|[≡≈⇒→：]|(?<!\d):|:(?!\d)"
)
_LIST = re.compile(r"[,;，、；]")
_MOD = re.compile(
    r"[(（]?\s*(?:\\[pb]?mod\b|«mod»|\bmod\b)\s*(?:\{\s*(\d+)\s*\}|(\d+)|\{[^{}]*\}|[A-Za-z]\b)\s*[)）]?\s*$"
)
_SPACED_THOUSANDS = re.compile(r"(?<!\d)\d{1,3}(?:\\[,!]|\{,\}| )\d{3}(?!\d)")
# Words that change what number is meant, or that join several.
_OTHER_NUMBER = re.compile(
    r"(?<![^\W_])(?:not?|nor|never|neither|cannot|or|either|unknown|thousand|million|billion"
    r"|hundred|dozen|factorial|squared|cubed|minus|negative|twice|double|half|triple|than|least"
    r"|most|between|root|nicht|kein\w*|oder|pas|ne|ou|non|ni|não|nie|tidak|inte|не|или)(?![^\W_])"
    r"|n['’]t\b|不是|不|或|아니"
)
_FUNCTION = re.compile(
    r"\\(?:pi|sqrt|[dtc]?frac|binom|times|cdot|div|pm|mp|sum|prod|log|ln|sin|cos|tan|le|leq|ge"
    r"|geq|ne|neq|lt|gt|infty|overline|bar|dot|ldots|cdots|dots|lvert|vert|mid|sim|in|cup|cap)\b"
    r"|[/*×·÷<>≤≥≠±∓√π!^|+∼~{}\[\]]|\.\.\.|…|\bpi\b|\be\d"
)
_ELLIPSIS = re.compile(r"\.\.|…|\\[lc]?dots\b")
_LITERAL = re.compile(r"(?<![0-9.,])([0-9]+)(?![\d,]*\d|\.\d)")


class IntegerReading(NamedTuple):
    """What was read. `ask`: the rules do not decide, and math_verify may read this formula."""

    answer: str | None
    rule: str | None = None
    read: str | None = None
    ask: str | None = None


def read_integer(text: str) -> IntegerReading:
    """The integer from 0 to 999 that a response gives as its answer, without leading zeros.

    The last box decides; without one an answer tag, the last final-answer phrase, or a response
    that is only a number.
    """
    boxes = final_answer.boxes(text)
    if boxes is not None:
        return _boxed(boxes)
    tagged = final_answer.tagged(text)
    if tagged is not None:
        return _decided(tagged, TAG)
    if len(text) <= MOST_CHARACTERS and integer_in(text) is not None and _is_bare(text):
        return IntegerReading(_in_range(integer_in(text)), BARE, text.strip())
    clause = final_answer.phrase(text)
    if clause is not None and (re.search(r"\d", clause) or changes_number(clause)):
        return _decided(clause, PHRASE)
    sentence = final_answer.last_sentence(text)
    return IntegerReading(None) if sentence is None else _decided(sentence, SENTENCE)


def _boxed(boxes: Boxes) -> IntegerReading:
    if boxes.cut:
        return IntegerReading(None, BOX)
    if len({integer_in(content) for content in boxes.contents}) > 1:
        return IntegerReading(None, BOX, ", ".join(boxes.contents))
    return _decided(boxes.contents[-1], BOX)


def _decided(latex: str, rule: str) -> IntegerReading:
    if rule in (PHRASE, SENTENCE):
        latex = mark_prose(latex)
    if latex.rstrip().endswith(("?", "？")):
        return IntegerReading(None, rule, unmarked(latex))
    answer = integer_in(latex)
    if answer is None and may_be_integer(latex, rule):
        return IntegerReading(None, rule, unmarked(latex), ask=unmarked(latex))
    return IntegerReading(_in_range(answer), rule, unmarked(latex))


def mark_prose(clause: str) -> str:
    """A clause of prose whose words stand in « »; formulas in it are left as they are."""
    parts = _FORMULA.split(clause.lstrip(" \t>#"))
    parts[::2] = [_WORD_OUTSIDE.sub("«\\g<0>»", part) for part in parts[::2]]
    return "".join(parts)


def unmarked(text: str) -> str:
    return text.replace("«", "").replace("»", "").strip()


def _in_range(answer: str | None) -> str | None:
    return answer if answer is not None and int(answer) <= LARGEST else None


def _is_bare(text: str) -> bool:
    r"""Whether a text is a number and nothing else: `70`, `$70$`, `**70**.`"""
    return re.fullmatch(r"[\s$*_.(){}\[\]\\]*\d+[\s$*_.(){}\[\]\\]*", text) is not None


def literal(latex: str) -> str | None:
    """The only number written in a formula, without leading zeros; None if there are several."""
    found = set(_LITERAL.findall(marked(latex)))
    return str(int(found.pop())) if len(found) == 1 else None


def may_be_integer(latex: str, rule: str) -> bool:
    """Whether math_verify may find the integer: one number is written, and nothing computes."""
    text = marked(latex)
    if changes_number(text) or _FUNCTION.search(text) or "?" in text:
        return False
    numbers = re.findall(r"\d+", text)
    return len(numbers) == 1 or (rule == SENTENCE and bool(re.search(r"\d[\s.$«»]*$", text)))


def integer_in(latex: str) -> str | None:
    """The integer that a formula or a clause gives, of any size, without leading zeros."""
    if len(latex) > MOST_CHARACTERS or _SPACED_THOUSANDS.search(latex):
        return None
    text, modulus = _without_modulus(marked(latex))
    if changes_number(text) or _ELLIPSIS.search(text):
        return None
    parts = [part for part in _LIST.split(text) if re.search(r"\d", part)]
    values = {_of_relation(part) for part in parts}
    if len(values) != 1 or re.search(r"\d\s*[,，]\s*\d", text):
        return None
    value = values.pop()
    return None if value is None or (modulus and int(value) >= int(modulus)) else value


def changes_number(text: str) -> bool:
    """Whether a word says that another number is meant, or one of several: `not 70`, `7 or 8`."""
    return _OTHER_NUMBER.search(unmarked(text).lower()) is not None


def marked(latex: str) -> str:
    r"""The formula without its layout; the words of `\text{…}` stand in « »."""
    text = _strip_markdown(plain_latex(latex)).replace("−", "-")
    text = _FRACTION_BY_ONE.sub(r"\1", text)
    return _TEXT.sub(lambda found: re.sub(r"[^\W\d_]+", r" «\g<0>» ", found.group(1)), text)


def _strip_markdown(text: str) -> str:
    text = re.sub(r"(?<!\d)\*{1,3}|\*{1,3}(?!\s*\d)|`|^[\s#]+|(?<![\w}])_+|_+$", "", text.strip())
    # Ticks, boxes and pictures.
    text = re.sub(r"[\u2500-\u27bf\u2b00-\u2bff\ufe0f\U0001f000-\U0001faff]", "", text)
    return unwrap(text.strip())


def unwrap(text: str) -> str:
    """The text without parentheses around all of it."""
    while True:
        inner = re.fullmatch(r"[(（]([^()（）]*)[)）][.\s]*", text)
        if inner is None:
            return text
        text = inner.group(1).strip()


def _without_modulus(text: str) -> tuple[str, str | None]:
    found = _MOD.search(text.rstrip(" .,"))
    if found is None:
        return text, None
    return text[: found.start()], found.group(1) or found.group(2)


def _of_relation(part: str) -> str | None:
    """The integer on the last side of `m+n = 49+21 = 70`, or on the first one of `70 = m+n`."""
    sides = RELATION.split(part)
    values = [_number(side) for side in sides]
    numbers = {value for value in values if value is not None}
    if not numbers:
        return None
    congruent = "\\equiv" in part or "≡" in part
    if values[-1] is not None:
        return values[-1] if len(numbers) == 1 or congruent else None
    rest = "".join(side for side, value in zip(sides, values, strict=True) if value is None)
    return values[0] if len(numbers) == 1 and not re.search(r"\d", rest) else None


def between(leading: re.Pattern[str], number: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The number after any leading pieces, if nothing but units follows it.

    Pieces are skipped one by one, since a pattern of repeated pieces can take exponential time, and
    Python before 3.11.5 matches possessive groups wrongly (python/cpython#106052).
    """
    found = number.match(text, _skip(leading, text, 0))
    return found if found and _skip(_UNIT, text, found.end()) == len(text) else None


def _skip(piece: re.Pattern[str], text: str, at: int) -> int:
    while found := piece.match(text, at):
        at = found.end()
    return at


def _number(side: str) -> str | None:
    found = between(_LEADING, _NUMBER, unwrap(side.strip()))
    return str(int(found.group(1))) if found and len(found.group(1)) <= 12 else None
