"""Users' own benchmarks: a JSONL file of questions, answers and a reader that is named.

`jobspec benchmarks add` checks such a file and writes it as `own_<name>.jsonl` into a benchmark
directory. There every row says by which reader its answer is read, so that nothing else has to be
known about the benchmark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import msgspec

from jobspec.benchmarks import multiple_choice
from jobspec.benchmarks.benchmark import CHOICE_LETTERS, PROMPT, Benchmark, Question, QuestionRow
from jobspec.readers.numbers import number_in
from jobspec.readers.program_cases import ProgramCases
from jobspec.readers.texts import plain_text
from jobspec.records.evaluation import Reading

PREFIX = "own_"
NUMBER, MATH, CHOICE, EXACT, REGEX, CODE = READERS = (
    *("number", "math", "choice", "exact", "regex", "code"),
)
CODE_PROMPT = (
    "{problem}\n\nPlease reason step by step, and write the complete solution in Python, in one "
    "block that begins with ```python."
)
_FIELDS = ("question", "answer")


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the rows of a file that do not say it themselves."""

    reader: str | None = None
    pattern: str | None = None
    prompt: str | None = None


def benchmark(name: str, defaults: Defaults) -> Benchmark:
    """The benchmark of a file that is to be added."""
    return msgspec.structs.replace(
        BENCHMARKS[0],
        name=f"{PREFIX}{name}",
        files=(f"{PREFIX}{name}.jsonl",),
        parse_question=partial(_question, defaults),
    )


def to_row(question: Question) -> dict[str, Any]:
    """A question as a row of the file that is installed."""
    assert question.reading is not None
    reading = question.reading
    row = {
        "id": question.id,
        "question": question.problem,
        "answer": question.answer,
        "reader": reading.reader,
        "choices": list(reading.choices) or None,
        "pattern": reading.pattern,
        "tests": reading.tests,
        "cases": reading.cases,
        "prompt": question.prompt,
    }
    return {name: value for name, value in row.items() if value is not None}


def _question(defaults: Defaults, row: QuestionRow) -> Question:
    reader = _reader(defaults, row)
    choices = _choices(row) if reader == CHOICE else ()
    tests, cases = _tests(row) if reader == CODE else (None, None)
    reading = Reading(
        reader=reader,
        choices=choices,
        pattern=_pattern(defaults, row) if reader == REGEX else None,
        tests=tests,
        cases=cases,
    )
    return Question(
        id=_text(row.value("id", "unique_id")) or str(row.number),
        problem=row.text("question", "problem"),
        answer=_answer(reading, row),
        choices=choices,
        prompt=_prompt(row.value("prompt") or defaults.prompt, reading, row),
        reading=reading,
    )


def _reader(defaults: Defaults, row: QuestionRow) -> str:
    """The row's own reader, or else the one that was named, or that the row's fields imply."""
    named = row.value("reader") or defaults.reader
    if named is None and row.value("choices") is not None:
        return CHOICE
    if named is None and row.value("tests", "cases") is not None:
        return CODE
    if named is None and number_in(_text(row.value("answer")) or "") is not None:
        return NUMBER
    known = f"the readers are {', '.join(READERS)}"
    if named is None:
        raise row.error("no reader is named, and the answer is not a number", hint=known)
    if named not in READERS:
        raise row.error(f"there is no reader `{named}`", hint=known)
    return named


def _text(value: object) -> str | None:
    """A text, or a number as text; None for anything else and for empty texts."""
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _answer(reading: Reading, row: QuestionRow) -> str:
    given = _text(row.value("answer"))
    if given is None:
        hint = f"every row needs {' and '.join(f'`{name}`' for name in _FIELDS)}"
        raise row.error("the field `answer` is missing, empty, or no text or number", hint=hint)
    if reading.reader == NUMBER:
        number = number_in(given)
        if number is None:
            raise row.error(
                f"the answer `{given[:60]}` is not a number",
                hint="the reader `math` reads formulas, `exact` reads words",
            )
        return number
    if reading.reader == CHOICE:
        return _letter(given, reading.choices, row)
    if reading.reader in (EXACT, REGEX) and not re.search(r"\w", plain_text(given)):
        raise row.error(f"the answer `{given[:60]}` has neither letters nor digits")
    return given


def _choices(row: QuestionRow) -> tuple[str, ...]:
    given = row.value("choices")
    if isinstance(given, Mapping):  # {"A": "…", "B": "…"}
        given = list(cast("Mapping[str, Any]", given).values())
    texts = (
        [_text(each) for each in cast("Sequence[Any]", given)] if isinstance(given, list) else []
    )
    choices = tuple(each.strip() for each in texts if each is not None)
    most = len(CHOICE_LETTERS)
    if len(choices) != len(texts) or not 2 <= len(choices) <= most:
        raise row.error(
            f"`choices` is not a list of 2 to {most} texts",
            hint='for example "choices": ["Paris", "London"]',
        )
    if len({plain_text(each) for each in choices}) < len(choices):
        raise row.error("two of `choices` are the same", hint="letter case does not count")
    return choices


def _letter(given: str, choices: Sequence[str], row: QuestionRow) -> str:
    same = [i for i, choice in enumerate(choices) if plain_text(choice) == plain_text(given)]
    letters = CHOICE_LETTERS[: len(choices)]
    if same:
        return letters[same[0]]
    letter = given.strip(" ().").upper()
    if len(letter) == 1 and letter in letters:
        return letter
    raise row.error(
        f"the answer `{given[:60]}` is none of `choices`",
        hint=f"give its text, or its letter, one of {letters}; numbers may count from 0 or 1",
    )


def _pattern(defaults: Defaults, row: QuestionRow) -> str:
    pattern = row.value("pattern") or defaults.pattern
    hint = r"for example --pattern 'Colour: (\w+)'; its last match is read, or the group in it"
    if not isinstance(pattern, str):
        raise row.error("the reader `regex` needs a pattern", hint=hint)
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise row.error(f"the pattern `{pattern}` is not valid: {error}", hint=hint) from error
    if groups > 1:
        raise row.error(
            f"the pattern `{pattern}` has {groups} groups",
            hint="mark the answer with one group, and write (?:…) for the others",
        )
    return pattern


def _tests(row: QuestionRow) -> tuple[str | None, str | None]:
    """The tests of a program: Python code, or inputs with outputs."""
    given, packed = row.value("tests"), row.value("cases")
    if isinstance(packed, str) and given is None:
        return None, packed
    if isinstance(given, str) and given.strip():
        return given, None
    rows = cast("list[Any]", given) if isinstance(given, list) else []
    if rows and all(isinstance(each, str) for each in rows):  # ["assert f(1) == 2", …]
        return "\n".join(rows), None
    try:
        cases = tuple((_field(each, "input"), _field(each, "output")) for each in rows)
    except (KeyError, TypeError):
        cases = ()
    if not cases:
        raise row.error(
            "the reader `code` needs `tests`",
            hint='Python code such as "assert add(1, 2) == 3", or a list of objects with '
            "`input` and `output`, which are standard input and output",
        )
    function = _text(row.value("function"))
    return None, ProgramCases(cases=cases, function=function).packed()


def _field(case: Mapping[str, Any], name: str) -> str:
    value = case[name]
    return value if isinstance(value, str) else json.dumps(value)


def _prompt(given: object, reading: Reading, row: QuestionRow) -> str | None:
    """The template of the user turn; None for the benchmark's own."""
    if given is None:
        made = {CODE: CODE_PROMPT, REGEX: "{problem}"}
        choices = len(reading.choices)
        return multiple_choice.prompt(choices) if choices else made.get(reading.reader)
    hint = "its placeholders are {problem} and {choices}; write {{ and }} for braces"
    needed = ("{problem}", "{choices}") if reading.reader == CHOICE else ("{problem}",)
    given = given.replace("{question}", "{problem}") if isinstance(given, str) else given
    if not isinstance(given, str) or any(each not in given for each in needed):
        raise row.error(f"the prompt does not contain {' and '.join(needed)}", hint=hint)
    try:
        given.format(problem="", choices="")
    except (KeyError, ValueError, IndexError) as error:
        raise row.error(f"the prompt can't be filled in: {error}", hint=hint) from error
    return given


BENCHMARKS = (
    Benchmark(
        name=f"{PREFIX}*",
        title="your own",
        url="",
        licence="yours",
        files=(),
        fields=_FIELDS,
        prompt=PROMPT,
        grader="reader",
        parse_question=partial(_question, Defaults()),
    ),
)
