"""Benchmark files: where they are looked for, how they are read and checked.

A benchmark file is JSONL or CSV with a question a row. `Benchmark.fields` says what a row needs.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec

from jobspec.benchmarks.benchmark import Benchmark, Question, QuestionRow
from jobspec.errors import BenchmarkError

DIRECTORY_VARIABLE = "JOBSPEC_BENCHMARK_DIR"


class QuestionSet(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark with its questions in file order; `sha256` is the file's."""

    benchmark: Benchmark
    questions: tuple[Question, ...]
    sha256: str
    file: str

    @property
    def name(self) -> str:
        return self.benchmark.name


def directories(spec_dir: str | None, cache: Path | None = None) -> tuple[Path, ...]:
    """Where files are looked for, in order: the spec's, the environment's, the root's cache."""
    named = [spec_dir, os.environ.get(DIRECTORY_VARIABLE)]
    given = [Path(name).expanduser() for name in named if name]
    return (*given, *([cache] if cache is not None else []))


def find(benchmark: Benchmark, where: Iterable[Path]) -> Path | None:
    """The benchmark's file, if one of the directories has it."""
    files = (directory / name for directory in where for name in benchmark.files)
    return next((file for file in files if file.is_file()), None)


def get_it_hint(benchmark: Benchmark) -> str:
    """How to get a benchmark's file where it can't be downloaded."""
    where = f"put {benchmark.files[0]} into eval.benchmark_dir or ${DIRECTORY_VARIABLE}"
    return f"get it from {benchmark.url} and {where}" if benchmark.url else where


def read(benchmark: Benchmark, path: Path) -> QuestionSet:
    """Read and check a benchmark file.

    Raises:
        BenchmarkError: naming the file and the row: not JSON, a missing field, an id twice, an
            answer that the benchmark does not allow, no questions at all.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BenchmarkError(f"can't be read: {error.strerror}", file=path) from error
    rows = _csv_rows(data, path) if path.suffix == ".csv" else _json_rows(data, path)
    hint = f"every row needs {_listed(benchmark.fields)}"
    questions: dict[str, Question] = {}
    numbers: dict[str, int] = {}
    for number, values in rows:
        row = QuestionRow(values, path, number, hint)
        question = benchmark.parse_question(row)
        if question.id in questions:
            raise row.error(
                f"the id `{question.id}` stands in row {numbers[question.id]} too",
                hint="samples are seeded and paired by question id: give each its own",
            )
        questions[question.id], numbers[question.id] = question, number
    if not questions:
        raise BenchmarkError("has no questions", file=path, hint="is the download complete?")
    return QuestionSet(
        benchmark=benchmark,
        questions=tuple(questions.values()),
        sha256=hashlib.sha256(data).hexdigest(),
        file=str(path),
    )


def _json_rows(data: bytes, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a JSONL file with their numbers, counted from 1; empty lines are left out."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"row {number}"
        try:
            row = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BenchmarkError(f"not valid JSON: {error}", file=path, place=place) from error
        if not isinstance(row, dict):
            raise BenchmarkError("not a JSON object", file=path, place=place)
        yield number, cast("dict[str, Any]", row)


def _csv_rows(data: bytes, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a CSV file with a header, counted from 1 without it."""
    try:
        text = data.decode("utf-8-sig")
        yield from enumerate(csv.DictReader(io.StringIO(text, newline=""), strict=True), start=1)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BenchmarkError(f"not a CSV file in UTF-8: {error}", file=path) from error


def _listed(names: tuple[str, ...]) -> str:
    *first, last = [f"`{name}`" for name in names]
    return f"{', '.join(first)} and {last}" if first else last
