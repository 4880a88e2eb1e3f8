"""Searches the training data for benchmark questions, by 13-grams of words.

A score on a question that the model was trained on means little. As usual, a question counts as
contained if it has 13 consecutive words in common with a row, ignoring case and punctuation. A
shorter question must occur completely, and questions of fewer than 6 words are not checked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from jobspec.benchmarks import question_file, registry
from jobspec.benchmarks.benchmark import Benchmark
from jobspec.errors import MalformedRow
from jobspec.records.reports import Overlap
from jobspec.spec.schema import EvalSpec
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths
from worker.data import parallel_map
from worker.data.render_check import texts
from worker.rows.data_sources import DataSources
from worker.rows.jsonl import FileChunk
from worker.rows.row import RowParser

WORDS = 13
_FEWEST = 6
_VERSION = 1
_EXAMPLES = 5
_words = re.compile(r"\w+").findall


@dataclass
class QuestionIndex:
    """The 13-grams of a benchmark's questions, to search texts for them."""

    _runs: dict[tuple[str, ...], list[int]] = field(default_factory=dict)
    _short: list[tuple[str, int]] = field(default_factory=list)
    judged: int = 0

    @classmethod
    def of(cls, questions: Iterable[str]) -> QuestionIndex:
        index = cls()
        for number, question in enumerate(questions):
            words = _words(question.lower())
            index.judged += len(words) >= _FEWEST
            for run in _runs(words):
                index._runs.setdefault(run, []).append(number)
            if _FEWEST <= len(words) < WORDS:
                index._short.append((f" {' '.join(words)} ", number))
        return index

    def find(self, text: str) -> set[int]:
        """The indices of the questions that a text contains."""
        words = _words(text.lower())
        runs = self._runs
        matches = {number for run in _runs(words) if run in runs for number in runs[run]}
        joined = f" {' '.join(words)} "
        return matches.union(number for short, number in self._short if short in joined)


def report(
    asked: EvalSpec | None, sources: DataSources, data_sha256: str, root: RootPaths
) -> dict[str, Overlap | None]:
    """The overlap with each benchmark of a spec; None if its questions are not on this machine."""
    if asked is None:
        return {}
    where = question_file.directories(asked.benchmark_dir, root.cache / "benchmarks")
    overlaps: dict[str, Overlap | None] = {}
    for name in asked.benchmarks:
        benchmark = registry.get(name)
        file = None if benchmark is None else question_file.find(benchmark, where)
        overlap = None
        if benchmark is not None and file is not None:
            overlap = _cached_overlap(benchmark, file, sources, data_sha256, root)
        overlaps[name] = overlap
    return overlaps


def measure(questions: Sequence[tuple[str, str]], sources: DataSources) -> Overlap:
    """Compute the overlap of (id, text) questions with the data, on all cores."""
    index = QuestionIndex.of(text for _, text in questions)
    rows: set[int] = set()
    pairs: dict[int, int] = {}
    search = partial(_search, index, sources.parsers)
    for hits in parallel_map.map_in_order(search, sources.scan.chunks):
        for row, numbers in hits:
            rows.add(row)
            for number in sorted(numbers):
                pairs.setdefault(number, row)
    examples = [(questions[number][0], row) for number, row in sorted(pairs.items())]
    return Overlap(
        questions=len(questions),
        judged=index.judged,
        questions_found=len(pairs),
        rows_found=len(rows),
        examples=tuple(examples[:_EXAMPLES]),
    )


def _search(
    index: QuestionIndex, parsers: Sequence[RowParser], chunk: FileChunk
) -> list[tuple[int, set[int]]]:
    hits: list[tuple[int, set[int]]] = []
    parser = parsers[chunk.source]
    for number, line in chunk.rows():
        try:
            messages = parser.parse(line, number).messages
        except MalformedRow:
            continue
        contents = [text for message in messages for text in texts(message.get("content"))]
        questions = index.find("\n".join(contents))
        if questions:
            hits.append((chunk.before + number, questions))
    return hits


def _cached_overlap(
    benchmark: Benchmark,
    file: Path,
    sources: DataSources,
    data_sha256: str,
    root: RootPaths,
) -> Overlap:
    """The overlap, computed once for each pair of file contents."""
    asked = question_file.read(benchmark, file)
    formats = " ".join(parser.format for parser in sources.parsers)
    described = f"{_VERSION} {WORDS} {asked.sha256} {data_sha256} {formats}"
    path = root.overlap / f"{hashlib.sha256(described.encode()).hexdigest()[:40]}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Overlap)
    except (FileNotFoundError, msgspec.MsgspecError):
        overlap = measure([(one.id, one.problem) for one in asked.questions], sources)
        fs.make_dir(path.parent)
        fs.publish(path, msgspec.json.encode(overlap))
        return overlap


def _runs(words: list[str]) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(WORDS)), strict=False)
