"""The samples of a run that the page shows: a few of each benchmark, right and wrong ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import msgspec

from jobspec.errors import BenchmarkError
from jobspec.queue.job import Job
from jobspec.records import evaluation
from jobspec.records.evaluation import AskedQuestion, Generation, QuestionScore, SampleScore
from jobspec.results.evaluations import evaluated_attempt
from jobspec.storage.layout import EvaluationPaths

_MOST_BYTES = 1 << 23  # read of a benchmark's samples
_MOST_TEXT = 1500  # characters of a prompt, of the reasoning and of a response
_THINK_END = "</think>"


class ShownSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sample on the page. Long texts are cut in the middle.

    Attributes:
        reasoning: the response up to the end of its thinking.
        read: the part of the response that was read as the answer, by `rule`.
    """

    benchmark: str
    question: str
    sample: int
    prompt: str
    response: str
    expected: str
    right: bool
    tokens: int
    reasoning: str = ""
    answer: str | None = None
    read: str | None = None
    rule: str | None = None
    truncated: bool = False


class ShownSamples(msgspec.Struct, frozen=True, kw_only=True):
    """Some samples of a run, and how many it has."""

    shown: list[ShownSample] = []
    total: int = 0


def choose(job: Job, budget: int) -> ShownSamples:
    """Choose samples of a job, alternately wrong and right, the same at every call.

    Args:
        budget: characters of text in all.
    """
    try:
        directories = evaluation.benchmark_dirs(evaluated_attempt(job).eval)
    except (BenchmarkError, OSError):
        return ShownSamples()
    of_final = {name: path for name, path in directories.items() if "/" not in name}
    total, shown = 0, list[ShownSample]()
    for name, directory in of_final.items():
        try:
            count, found = _of_benchmark(name, directory)
        except (BenchmarkError, OSError, msgspec.MsgspecError):
            continue  # still running, or damaged: the other benchmarks are shown
        total += count
        shown += _within(_alternating(found), budget // len(of_final))
    return ShownSamples(shown=shown, total=total)


def _of_benchmark(name: str, directory: Path) -> tuple[int, list[ShownSample]]:
    plan, paths = evaluation.read_plan(directory), EvaluationPaths(directory)
    scores = evaluation.read_scores(directory)
    asked = {each.id: each for each in evaluation.read_rows(paths.questions, AskedQuestion)}
    judged = {(score.id, each.sample): each for score in scores for each in score.samples}
    think_end = plan.think_end_token or _THINK_END
    found = [
        _shown(name, asked[row.question], row, judged[row.question, row.sample], think_end)
        for row in _first_rows(paths, plan.chunks)
        if row.question in asked and (row.question, row.sample) in judged
    ]
    return _count(scores), found


def _count(scores: Sequence[QuestionScore]) -> int:
    return sum(len(score.samples) for score in scores)


def _first_rows(paths: EvaluationPaths, chunks: int) -> Iterator[Generation]:
    """The first generations, without reading all of them: there may be gigabytes."""
    left = _MOST_BYTES
    for index in range(chunks):
        with paths.generations(index).open("rb") as file:
            while left > 0 and (line := file.readline()):
                left -= len(line)
                yield msgspec.json.decode(line, type=Generation)


def _shown(
    name: str, question: AskedQuestion, row: Generation, score: SampleScore, think_end: str
) -> ShownSample:
    reasoning, found, response = row.text.rpartition(think_end)
    if not found and (score.unclosed or row.thinking == "open"):
        reasoning, response = row.text, ""
    return ShownSample(
        benchmark=name,
        question=question.id,
        sample=row.sample,
        prompt=_cut(question.prompt),
        reasoning=_cut(reasoning.strip()),
        response=_cut(response.strip()),
        expected=_cut(question.answer),
        answer=None if score.answer is None else _cut(score.answer),
        read=None if score.read is None else _cut(score.read),
        rule=score.rule,
        right=score.right,
        truncated=score.truncated,
        tokens=row.tokens,
    )


def _cut(text: str) -> str:
    if len(text) <= _MOST_TEXT:
        return text
    half = _MOST_TEXT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters …]\n{text[-half:]}"


def _alternating(samples: Sequence[ShownSample]) -> Iterator[ShownSample]:
    """Wrong and right samples in turn, those with other questions first."""
    in_order = sorted(samples, key=lambda each: each.sample)
    sides = [[each for each in in_order if each.right is right] for right in (False, True)]
    yield from (each for pair in zip_longest(*sides) for each in pair if each is not None)


def _within(samples: Iterator[ShownSample], budget: int) -> Iterator[ShownSample]:
    for each in samples:
        budget -= len(each.prompt) + len(each.reasoning) + len(each.response) + 200
        if budget < 0:
            return
        yield each
