"""Searches the training data for the questions of the benchmarks that a spec will run.

A score on a question that the model was trained on means little, so a row that contains a question
refuses the data, unless `data.allow_contaminated` is set. Nothing here needs more than jobspec's
own packages, except to read tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from jobspec.benchmarks import question_file, registry
from jobspec.benchmarks.question_file import QuestionSet
from jobspec.errors import DataError, MalformedRow
from jobspec.records.reports import Overlap
from jobspec.spec.schema import DataSpec, EvalSpec
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths
from worker.contamination.question_index import QuestionIndex, compared_text
from worker.rows import parallel_map
from worker.rows.data_sources import DataSources, sources_of
from worker.rows.jsonl import FileChunk
from worker.rows.row import RowParser

_VERSION = 2  # of the rule; raise it when the same files give another overlap
_EXAMPLES, _ROWS = 5, 1000


def report(
    asked: EvalSpec | None, sources: DataSources, data_sha256: str, root: RootPaths
) -> dict[str, Overlap | None]:
    """The overlap with each benchmark of a spec; None if its questions are not on this machine.

    Each is computed once for a pair of file contents, and kept in the root.
    """
    sets = {} if asked is None else _question_sets(asked, root)
    known: dict[str, Overlap] = {}
    for name, questions in sets.items():
        if questions is not None and (kept := _read(questions, data_sha256, sources, root)):
            known[name] = kept
    missing = {name: one for name, one in sets.items() if one is not None and name not in known}
    if missing:
        for name, overlap in measure(missing, sources).items():
            known[name] = overlap
            path = _kept_file(missing[name], data_sha256, sources, root)
            fs.make_dir(path.parent)
            fs.publish(path, msgspec.json.encode(overlap))
    return {name: known.get(name) for name in sets}


def measure(sets: Mapping[str, QuestionSet], sources: DataSources) -> dict[str, Overlap]:
    """Compute the overlap of the benchmarks' questions with all rows, on all cores."""
    indices = {
        name: QuestionIndex.of(one.problem for one in asked.questions)
        for name, asked in sets.items()
    }
    hits: dict[str, list[_Hit]] = {name: [] for name in sets}
    search = partial(_search, indices, sources.parsers)
    for found in parallel_map.map_in_order(search, sources.scan.chunks):
        for name, hit in found:
            hits[name].append(hit)
    return {name: _overlap(sets[name], indices[name].judged, hits[name]) for name in sets}


def refuse(overlaps: Mapping[str, Overlap | None], data: DataSpec) -> None:
    """Raise DataError if a row contains a question, unless the spec allows it."""
    found = {name: one for name, one in overlaps.items() if one is not None and one.rows_found}
    if data.allow_contaminated or not found:
        return
    name = min(found, key=lambda each: (found[each].first_source, found[each].first_row))
    first = found[name]
    counts = "; ".join(
        f"{name}: {_count(one.rows_found, 'row')} with {_count(one.questions_found, 'question')}"
        for name, one in found.items()
    )
    raise DataError(
        f"contains question `{first.examples[0][0]}` of the benchmark {name}, which this spec "
        f"will run. Benchmark questions in all rows: {counts}",
        file=sources_of(data)[first.first_source].file,
        place=f"row {first.first_row}",
        hint="remove these rows (`jobspec preview SPEC --json` lists them under `overlap`), "
        "or train on them on purpose: data.allow_contaminated true",
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _question_sets(asked: EvalSpec, root: RootPaths) -> dict[str, QuestionSet | None]:
    where = question_file.directories(asked.benchmark_dir, root.cache / "benchmarks")
    sets: dict[str, QuestionSet | None] = {}
    for name in asked.benchmarks:
        benchmark = registry.get(name)
        file = None if benchmark is None else question_file.find(benchmark, where)
        sets[name] = None
        if benchmark is not None and file is not None:
            sets[name] = question_file.read(benchmark, file)
    return sets


@dataclass(frozen=True, slots=True)
class _Hit:
    """A row with questions: its place among all rows and in its file, and their indices."""

    position: int
    source: int
    number: int
    questions: set[int]


def _search(
    indices: Mapping[str, QuestionIndex], parsers: Sequence[RowParser], chunk: FileChunk
) -> list[tuple[str, _Hit]]:
    hits: list[tuple[str, _Hit]] = []
    parser = parsers[chunk.source]
    for number, line in chunk.rows():
        try:
            row = parser.parse(line, number)
        except MalformedRow:
            continue
        text = compared_text(row)
        for name, index in indices.items():
            if questions := index.find(row, text):
                position = chunk.before + number
                hits.append((name, _Hit(position, chunk.source, number, questions)))
    return hits


def _overlap(asked: QuestionSet, judged: int, hits: Sequence[_Hit]) -> Overlap:
    pairs: dict[int, int] = {}
    for hit in hits:
        for number in sorted(hit.questions):
            pairs.setdefault(number, hit.position)
    examples = sorted(pairs.items(), key=lambda pair: (pair[1], pair[0]))
    return Overlap(
        questions=len(asked.questions),
        judged=judged,
        questions_found=len(pairs),
        rows_found=len(hits),
        examples=tuple((asked.questions[n].id, row) for n, row in examples[:_EXAMPLES]),
        rows=tuple(hit.position for hit in hits[:_ROWS]),
        first_source=hits[0].source if hits else 0,
        first_row=hits[0].number if hits else 0,
    )


def _kept_file(asked: QuestionSet, data_sha256: str, sources: DataSources, root: RootPaths) -> Path:
    parsed = [[parser.format, sorted(parser.ignored)] for parser in sources.parsers]
    described = f"{_VERSION} {asked.sha256} {data_sha256} {parsed}"
    return root.overlap / f"{hashlib.sha256(described.encode()).hexdigest()[:40]}.json"


def _read(
    asked: QuestionSet, data_sha256: str, sources: DataSources, root: RootPaths
) -> Overlap | None:
    try:
        kept = _kept_file(asked, data_sha256, sources, root).read_bytes()
        return msgspec.json.decode(kept, type=Overlap)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
