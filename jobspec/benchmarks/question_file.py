"""Benchmark files: where they are looked for, how they are read and checked.

A benchmark file is JSONL or CSV with a question a row. `Benchmark.fields` says what a row needs.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec

from jobspec.benchmarks import registry
from jobspec.benchmarks.benchmark import Benchmark, Question, QuestionRow
from jobspec.errors import BenchmarkError

DIRECTORY_VARIABLE = "JOBSPEC_BENCHMARK_DIR"


class QuestionSet(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark with its questions in file order; `sha256` is the file's.

    `rows`: the number of each question's row in the file.
    """

    benchmark: Benchmark
    questions: tuple[Question, ...]
    sha256: str
    file: str
    rows: tuple[int, ...] = ()

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


def is_ours(name: str, where: Iterable[Path]) -> bool:
    """Whether a benchmark is ours to ask and score; all other names are lm-eval's.

    A name that users may give to files of their own is ours only where there is such a file.
    """
    benchmark = registry.get(name)
    if benchmark is None:
        return False
    return benchmark in registry.all_benchmarks() or find(benchmark, where) is not None


def brought_along(where: Iterable[Path]) -> Iterator[Benchmark]:
    """Benchmarks of which only users have the questions, recognized by file name."""
    named = {benchmark.name for benchmark in registry.all_benchmarks()}
    files = {file.name: file for place in where for file in place.glob("*.jsonl")}
    for name, file in sorted(files.items()):
        benchmark = registry.get(file.stem)
        if benchmark is not None and benchmark.name not in named and name in benchmark.files:
            yield benchmark


def runs_code(name: str, where: Iterable[Path]) -> bool:
    """Whether answers to a benchmark of ours are programs, which need a sandbox."""
    from jobspec.benchmarks.own import CODE  # here, since the prepare phase does not need it

    benchmark = registry.get(name)
    file = None if benchmark is None or benchmark.runs_code else find(benchmark, where)
    if benchmark is None or file is None:
        return benchmark is not None and benchmark.runs_code
    readings = (question.reading for question in read(benchmark, file).questions)
    return any(reading is not None and reading.reader == CODE for reading in readings)


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
        rows=tuple(numbers.values()),
    )


def _json_rows(data: bytes, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a JSONL file with their numbers, counted from 1; empty lines are left out."""
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
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
