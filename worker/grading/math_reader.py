r"""Compares the answer of a response with the expected one: math_verify, with rules around it.

The rules read what math_verify can't (`\textcolor{red}{42}`, `x > 2` for an interval, `42 = a+b`)
and reject what it should not accept (a number in another base). math_verify is imported by the
functions that need it: they run in the child processes of `math_grader`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

from jobspec.readers import final_answer
from jobspec.readers.final_answer import BOX, PHRASE, Located
from jobspec.readers.integers import integer_in, literal
from jobspec.readers.latex_text import MOST_CHARACTERS, plain_latex

# The version of the rules that read and compare answers; scores of different ones are not compared.
READER = 2
MATH_VERIFY = "math_verify"
_SHOWN = 200

_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")
_TEXT = re.compile(r"\\text\{([^{}]*)\}(?:\s*\^\s*\{?\d\}?)?")
_ONLY_TEXT = re.compile(r"\s*[(\[]?\s*\\text\{[^{}]*\}[.\s)\]]*")
_PERCENT = re.compile(r"\s*(?:\\%|%|\\text\{\s*percent\s*\})\s*$")
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?: \d{3})+(?![\d.])")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?")
_BASE = re.compile(r"(?<=[0-9A-Fa-f])\s*_\s*\{?\s*(?:(\d+)|\\text\{([^{}]*)\})\s*\}?\s*$")
_DECIMAL = re.compile(r"[+-]?\d*\.?\d+")
_BASES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ARTICLES = frozenset(("a", "an", "the", "is", "it", "answer"))
_SMALL, _RELATIVE = 1e-2, 1e-6
_LARGEST_VALUE = 1e15


class Judgement(NamedTuple):
    """Whether a response is right.

    Attributes:
        answer: the answer that was read; None if there is none.
        rule: how it was found; None if it was not.
        value: a spelling that answers of equal value have in common, if it is known.
        read: the part of the response that was read.
    """

    right: bool
    answer: str | None
    rule: str | None = None
    value: str | None = None
    read: str | None = None


def expected_answer(gold: str) -> str | None:
    """The expected answer in LaTeX: the box of a worked solution; None if there is no box."""
    found = final_answer.boxes(gold)
    return ", ".join(found.contents) if found and found.contents else None


def judge_by_spelling(gold: str, located: Located) -> Judgement | None:
    """The judgement where the spelling decides: equal formulas, or integers that are written out.

    Args:
        gold: a text with the expected answer in a box.
    """
    answer, latex = expected_answer(gold), located.latex
    if answer is None or latex is None or len(latex) > MOST_CHARACTERS:
        return None
    expected, given = _squashed(answer), _squashed(latex)
    integers = _INTEGER.fullmatch(expected) and _INTEGER.fullmatch(given)
    if expected != given and not integers:
        return None
    right = int(expected) == int(given) if integers else True
    value = str(int(given)) if integers else given
    return Judgement(right, _shown(latex), located.rule, value, _shown(latex))


def judge(gold: str, located: Located) -> Judgement:
    """Whether an answer equals the expected one by value. Runs math_verify.

    Args:
        gold: a worked solution, or the expected answer in a box, read as in lm-eval.
    """
    from math_verify import verify

    target: Any = _read(located.context)
    answer, latex = expected_answer(gold), located.latex
    if latex is None and located.rule == BOX:  # the box is cut off
        return Judgement(False, None, BOX)
    if latex is None or len(latex) > MOST_CHARACTERS:
        read = _shown(str(target[-1])) if target else None
        right = bool(verify(_read(gold), target))
        return Judgement(right, read, MATH_VERIFY if read else located.rule, None, read)
    if located.rule == PHRASE and _negated(latex):
        return Judgement(False, None, PHRASE, None, _shown(latex))
    right = bool(verify(_read(gold), target))
    if answer is not None:
        right = (right and not _is_other(answer, latex)) or _is_equal(answer, latex)
    return Judgement(right, _shown(latex), located.rule, _value(target), _shown(latex))


def last_match(pattern: str, text: str) -> tuple[str, str] | None:
    """The last match of a user's pattern: its group, or all of it, and all of it."""
    found = list(re.finditer(pattern, text, re.MULTILINE))
    return (found[-1].group(found[-1].re.groups) or "", found[-1].group(0)) if found else None


def read_integer_with_math_verify(latex: str) -> str | None:
    """The integer that is written in a formula, if math_verify reads this number in it."""
    from math_verify import verify

    written = literal(latex)
    if written is None:
        return None
    target = _read(latex if "$" in latex or " " in latex.strip() else f"${latex}$")
    return written if target and verify(_read(written), target[:1]) else None


def classes(answers: list[str]) -> list[int]:
    """Numbers for answers: answers of equal value (math_verify's) get the same number."""
    from math_verify import verify

    firsts: list[str] = []
    found: list[int] = []
    for answer in answers:
        equal = (i for i, one in enumerate(firsts) if verify(_dollars(one), _dollars(answer)))
        number = next(equal, len(firsts))
        if number == len(firsts):
            firsts.append(answer)
        found.append(number)
    return found


@lru_cache(maxsize=4096)
def _read(text: str) -> list[Any]:
    from math_verify import parse

    return parse(text)


def _dollars(latex: str) -> list[Any]:
    return _read(f"${_tidy(latex)}$")


def _negated(clause: str) -> bool:
    return re.match(r"\W*(?:not\b|never\b|n['’]t\b)", clause) is not None


def _shown(latex: str) -> str:
    return latex.strip().strip("$").strip()[:_SHOWN]


def _tidy(latex: str) -> str:
    """A formula without layout, labels before it, and punctuation after it."""
    text = plain_latex(latex).lstrip(" ,;:*").rstrip(" .,;:*")
    text = _THOUSANDS.sub(lambda found: found.group(0).replace(" ", ""), text)
    text = _REPEATING.sub(_fraction, text)
    text = re.sub(r"(?<=\d) (?=[a-zA-Z]\b)", "", text)  # `3 i`
    label = re.match(r"\\text\{[^{}]*[:=]?\s*\}\s*[:=]?\s*(?=\S)", text)
    if label is not None and re.search(r"[\d\\]", text[label.end() :]):
        text = text[label.end() :]
    return text


@lru_cache(maxsize=4096)
def _squashed(latex: str) -> str:
    """A spelling for comparisons of text: without spaces, and with one kind of fraction."""
    text = re.sub(r"\\[dtc]frac", r"\\frac", _tidy(latex))
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    # Spaces that matter, as in `\pi r` and `4 2`, become a mark.
    text = re.sub(r"(\\[a-zA-Z]+|\d)\s+(?=[A-Za-z0-9])", lambda found: f"{found.group(1)}|", text)
    return "".join(text.split())


def _fraction(found: re.Match[str]) -> str:
    r"""`0.1\overline{6}` → `\frac{15}{90}`."""
    whole, fixed, repeated = (group or "" for group in found.groups())
    numerator = int(f"{whole}{fixed}{repeated}") - int(f"{whole}{fixed}" or "0")
    return f"\\frac{{{numerator}}}{{{'9' * len(repeated)}{'0' * len(fixed)}}}"


def _is_equal(gold: str, latex: str) -> bool:
    """Whether an answer that math_verify does not read as it stands equals the expected one."""
    from math_verify import verify

    expected, given = _tidy(gold), _tidy(latex)
    if not given or _is_other(gold, latex):
        return False
    if _ONLY_TEXT.fullmatch(expected):
        return _text_of(expected) == _text_of(given)
    if _INTEGER.fullmatch(expected):
        return integer_in(latex) == str(int(expected)) or _same_percent(expected, given)
    if _same_percent(expected, given):
        return True
    spellings = dict.fromkeys((given, _TEXT.sub("", given).strip(), _first_side(given)))
    wanted = dict.fromkeys((expected, _TEXT.sub("", expected).strip()))
    return any(
        verify(_dollars(one), _dollars(other), allow_set_relation_comp=True)
        for one in wanted
        for other in spellings
        if one and other
    )


def _same_percent(expected: str, given: str) -> bool:
    """`10\\%` and `10`: whether a percent sign is the only difference."""
    one, other = _PERCENT.sub("", expected), _PERCENT.sub("", given)
    return (one != expected or other != given) and one.replace(" ", "") == other.replace(" ", "")


def _first_side(latex: str) -> str:
    """The value in `\\frac{1}{2} = P`, whose other side is a name."""
    sides = re.split(r"(?<![<>!\\])=", latex)
    named = len(sides) == 2 and not re.search(r"\d|\\", sides[1]) and re.search(r"\d", sides[0])
    return sides[0].strip() if named else ""


def _text_of(latex: str) -> list[str]:
    """The words of a text, in lower case and without articles."""
    shown = _TEXT.sub(r" \1 ", latex)
    words = re.findall(r"[^\W_]+", shown.casefold())
    return [word for word in words if word not in _ARTICLES] or words


def _is_other(gold: str, latex: str) -> bool:
    """Whether an answer differs from the expected one in what math_verify does not look at."""
    expected, given = _tidy(gold), _tidy(latex)
    bases = _base(expected), _base(given)
    if None not in bases and bases[0] != bases[1]:
        return True
    if "circ" in expected and re.search(r"\\text\{[^{}]*\brad", given):
        return True
    if _DECIMAL.fullmatch(expected) and _DECIMAL.fullmatch(given):
        one, other = float(expected), float(given)
        return 0 < abs(one) < _SMALL and abs(one - other) > _RELATIVE * abs(one)
    return False


def _base(latex: str) -> str | None:
    found = _BASE.search(latex)
    if found is None:
        return None
    word = (found.group(2) or "").strip().casefold()
    return found.group(1) or (str(_BASES.index(word)) if word in _BASES else None)


def _value(target: list[Any]) -> str | None:
    """A number's value, rounded as math_verify compares it; None for what is not a number."""
    from sympy import Basic, Eq, N

    first = target[0] if target else None
    if isinstance(first, Eq):
        first = first.rhs
    if not isinstance(first, Basic) or not first.is_number or not first.is_real:
        return None
    number = float(N(first, 15))
    if not abs(number) < _LARGEST_VALUE:
        return None
    return str(int(number)) if number == int(number) else f"{number:.6f}"
