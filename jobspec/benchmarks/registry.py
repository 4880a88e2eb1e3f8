"""Benchmark questions from files: where they are looked for, how they are read and checked.

A benchmark file is JSONL with the fields `id` (or `unique_id`), `problem`, `answer` and, for MATH,
`solution`. Names starting with `aime` are of the AIME form: answers are integers from 0 to 999.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from jobspec.errors import BenchmarkError

DIRECTORY_VARIABLE = "JOBSPEC_BENCHMARK_DIR"
MATH = "minerva_math500"
OWN = (MATH, "aime24", "aime25")
PROMPT = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."

Form = Literal["aime", "math"]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One question. `solution` is the worked one where the source has it."""

    id: str
    problem: str
    answer: str
    solution: str | None = None


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark's questions in file order; `sha256` is the file's."""

    name: str
    form: Form
    questions: tuple[Question, ...]
    sha256: str
    source: str


def form_of(name: str) -> Form | None:
    """How answers of a benchmark are read; None for names we have no form for (lm-eval's tasks)."""
    if name == MATH:
        return "math"
    return "aime" if name.startswith("aime") else None


def file_name(name: str) -> str:
    """The benchmark's file within a benchmark directory."""
    return "math500.jsonl" if name == MATH else f"{name}.jsonl"


def directories(spec_dir: str | None, cache: Path | None = None) -> tuple[Path, ...]:
    """Where files are looked for, in order: the spec's, the environment's, the root's cache."""
    named = [spec_dir, os.environ.get(DIRECTORY_VARIABLE)]
    found = [Path(name).expanduser() for name in named if name]
    return (*found, *([cache] if cache is not None else []))


def find(name: str, where: Iterable[Path]) -> Path | None:
    """The benchmark's file, if one of the directories has it."""
    if form_of(name) is None:
        return None
    files = (directory / file_name(name) for directory in where)
    return next((file for file in files if file.is_file()), None)


def prompt(problem: str) -> str:
    """The user turn that asks a question under the `published` protocol."""
    return PROMPT.format(problem=problem)


def read(name: str, path: Path) -> Benchmark:
    """Read and check a benchmark file.

    Raises:
        BenchmarkError: naming the file and the row: invalid JSON, a missing field, an id twice, an
            answer that is not of the benchmark's form, no questions at all.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BenchmarkError(f"can't be read: {error.strerror}", file=path) from error
    form = form_of(name)
    if form is None:
        raise BenchmarkError(
            f"`{name}` is neither MATH-500 nor of the AIME form",
            file=path,
            hint="name a benchmark of your own `aime_<something>`: integer answers, k samples",
        )
    rows = [(i, line) for i, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    questions = tuple(_question(line, path, number, form) for number, line in rows)
    if not questions:
        raise BenchmarkError("has no questions", file=path, hint="is the download complete?")
    _refuse_duplicates([question.id for question in questions], [n for n, _ in rows], path)
    return Benchmark(
        name=name,
        form=form,
        questions=questions,
        sha256=hashlib.sha256(data).hexdigest(),
        source=str(path),
    )


def _question(line: bytes, path: Path, number: int, form: Form) -> Question:
    place = f"row {number}"
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"not valid JSON: {error}", file=path, place=place) from error
    if not isinstance(row, dict):
        raise BenchmarkError("not a JSON object", file=path, place=place)
    fields = cast("dict[str, Any]", row)
    answer = _field(fields, ("answer",), path, place)
    solution = fields.get("solution")
    return Question(
        id=_field(fields, ("id", "unique_id"), path, place),
        problem=_field(fields, ("problem",), path, place),
        answer=_integer_answer(answer, path, place) if form == "aime" else answer,
        solution=solution if isinstance(solution, str) else None,
    )


def _field(row: dict[str, Any], names: tuple[str, ...], path: Path, place: str) -> str:
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        wanted = " or ".join(f"`{name}`" for name in names)
        raise BenchmarkError(
            f"the field {wanted} is missing or empty",
            file=path,
            place=place,
            hint="every row needs `id`, `problem` and `answer`",
        )
    return value


def _integer_answer(answer: str, path: Path, place: str) -> str:
    text = answer.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= 999):
        raise BenchmarkError(
            f"the answer `{answer[:60]}` is not an integer from 0 to 999",
            file=path,
            place=place,
            hint="benchmarks named aime… have AIME answers",
        )
    return str(int(text))


def _refuse_duplicates(ids: list[str], numbers: list[int], path: Path) -> None:
    first: dict[str, int] = {}
    for number, name in zip(numbers, ids, strict=True):
        if name in first:
            raise BenchmarkError(
                f"the id `{name}` stands in row {first[name]} too",
                file=path,
                place=f"row {number}",
                hint="samples are seeded and paired by question id: give each its own",
            )
        first[name] = number
