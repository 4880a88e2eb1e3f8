"""Shows how the answers of a benchmark file are read, for `jobspec benchmarks add`.

    python -m worker.evaluation.read_examples FILE NAME

Grades ten responses that are made up, and the expected answer of every row, which must be right.
Prints `ReadExamples`, or exits with code 3 and prints `{"error": {...}}`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from jobspec.benchmarks import question_file, registry
from jobspec.benchmarks.benchmark import Benchmark, Question
from jobspec.benchmarks.own import CODE, REGEX
from jobspec.benchmarks.question_file import QuestionSet
from jobspec.errors import BenchmarkError
from jobspec.records.answers import ReadExample, ReadExamples
from jobspec.records.evaluation import AskedQuestion, Generation, SampleScore, SamplingPlan
from worker.answer import answer
from worker.evaluation import scoring
from worker.grading.math_grader import MathGrader
from worker.program import run_program

SHOWN = 10
_THINK_END = "</think>"
_BLOCK = "Here is my solution.\n```python\n{}\n```\n"


class _Form(NamedTuple):
    """A response, made of a question's answer and that of another one."""

    write: Callable[[str, str], str]
    meant: bool


_WORDS = (
    _Form(lambda mine, other: f"So the result is $\\boxed{{{mine}}}$.", True),
    _Form(lambda mine, other: f"**Answer:** {mine}", True),
    _Form(lambda mine, other: f"The final answer is {mine}.", True),
    _Form(lambda mine, other: f"<think>It may be {other}.</think>\\boxed{{{mine}}}", True),
    _Form(lambda mine, other: mine, True),
    _Form(lambda mine, other: f"So the result is $\\boxed{{{other}}}$.", False),
    _Form(lambda mine, other: f"\\boxed{{{mine}}} or \\boxed{{{other}}}", False),
    _Form(lambda mine, other: f"So the result is $\\boxed{{{mine}", False),
    _Form(lambda mine, other: "I do not know.", False),
    _Form(lambda mine, other: f"<think>It is \\boxed{{{mine}}}", False),
)
_PROGRAMS = (
    _Form(lambda mine, other: _BLOCK.format(mine), True),
    _Form(lambda mine, other: _BLOCK.format(mine) + "It passes.", True),
    _Form(lambda mine, other: _BLOCK.format("wrong(") + _BLOCK.format(mine), True),
    _Form(lambda mine, other: f"<think>{_BLOCK.format('pass')}</think>{_BLOCK.format(mine)}", True),
    _Form(lambda mine, other: mine, True),
    _Form(lambda mine, other: _BLOCK.format("pass"), False),
    _Form(lambda mine, other: _BLOCK.format("wrong("), False),
    _Form(lambda mine, other: f"```python\n{mine}", False),
    _Form(lambda mine, other: "I do not know.", False),
    _Form(lambda mine, other: f"<think>{_BLOCK.format(mine)}", False),
)


_PATTERNS = (
    _Form(lambda mine, other: mine, True),
    _Form(lambda mine, other: f"Let me see.\n{mine}", True),
    _Form(lambda mine, other: f"{mine}\nThat is all.", True),
    _Form(lambda mine, other: f"<think>{other}</think>{mine}", True),
    _Form(lambda mine, other: f"{other}\nNo, that is wrong.\n{mine}", True),
    _Form(lambda mine, other: other, False),
    _Form(lambda mine, other: f"{mine}\nNo, that is wrong.\n{other}", False),
    _Form(lambda mine, other: "", False),
    _Form(lambda mine, other: "?", False),
    _Form(lambda mine, other: f"<think>{mine}", False),
)
_FORMS = {CODE: _PROGRAMS, REGEX: _PATTERNS}
_GROUP = re.compile(r"(?<!\\)\((?!\?)(?:[^()\\]|\\.)*\)")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker.evaluation.read_examples")
    parser.add_argument("file", type=Path)
    parser.add_argument("name")
    asked = parser.parse_args()
    benchmark = registry.get(asked.name)
    assert benchmark is not None
    sys.exit(answer(lambda: read_examples(question_file.read(benchmark, asked.file))))


def read_examples(found: QuestionSet) -> ReadExamples:
    """Ten examples of answers that are read.

    Raises:
        BenchmarkError: the expected answer of a row would not be read as right.
    """
    with MathGrader() as math:
        _refuse_unreadable(found, math)
        made = list(_examples(found.questions))
        scores = _score(found.benchmark, [(one, response) for one, response, _ in made], math)
    return ReadExamples(
        examples=tuple(
            ReadExample(
                question=question.id,
                expected=question.answer,
                response=response,
                meant=meant,
                answer=score.answer,
                right=score.right,
                rule=score.rule,
                read=score.read,
            )
            for (question, response, meant), score in zip(made, scores, strict=True)
        )
    )


def _refuse_unreadable(found: QuestionSet, math: MathGrader) -> None:
    """The expected answer of every row, written as it is asked for, must count as right."""
    written = [
        (number, question, _forms(question)[0].write(mine, ""))
        for number, question in zip(found.rows, found.questions, strict=True)
        if (mine := _written(question, question.answer)) is not None
    ]
    scores = _score(found.benchmark, [(question, text) for _, question, text in written], math)
    for (number, question, _), score in zip(written, scores, strict=True):
        if not score.right:
            what = "does not pass its tests" if _reader(question) == CODE else "can't be read"
            raise BenchmarkError(
                f"the answer `{question.answer[:80]}` of question `{question.id}` {what}",
                place=f"row {number}",
                hint=f"correct it, or choose another reader than `{_reader(question)}`",
            )


def _examples(questions: Sequence[Question]) -> Iterator[tuple[Question, str, bool]]:
    """Ten responses, each to another question until all were used."""
    for number, question in enumerate(islice(cycle(questions), SHOWN)):
        form = _forms(question)[number]
        answers = (question.answer, _other(question, questions))
        mine, other = (_written(question, each) or each for each in answers)
        yield question, form.write(mine, other), form.meant


def _reader(question: Question) -> str:
    assert question.reading is not None
    return question.reading.reader


def _forms(question: Question) -> Sequence[_Form]:
    return _FORMS.get(_reader(question), _WORDS)


def _other(question: Question, questions: Sequence[Question]) -> str:
    """A wrong answer: another letter, that of another question, or else a changed one."""
    if question.choices:
        return "B" if question.answer == "A" else "A"
    others = (each.answer for each in questions if each.answer != question.answer)
    return next(others, f"{question.answer}1")


def _written(question: Question, text: str) -> str | None:
    """An answer where the question's pattern finds it; None if that can't be told."""
    assert question.reading is not None
    pattern = question.reading.pattern
    if pattern is None:
        return text
    group = _GROUP.search(pattern)
    around = (pattern[: group.start()], pattern[group.end() :]) if group else ("", "")
    before, after = map(_simplest, around)
    found = re.search(pattern, f"{before}{text}{after}", re.MULTILINE)
    return f"{before}{text}{after}" if found and found.group(found.re.groups) == text else None


def _simplest(pattern: str) -> str:
    """A text that a simple pattern may match."""
    text = re.sub(r"\(\?[a-z]+\)|\\[bBAZ]|\.[*+]\??|[\^$]", "", pattern)
    text = re.sub(r"\\s[*+?]?", " ", text)
    return re.sub(r"\\([^\w\s])", r"\1", text)


def _score(
    benchmark: Benchmark, responses: Sequence[tuple[Question, str]], math: MathGrader
) -> list[SampleScore]:
    """The scores of responses, each to a question."""
    plan = SamplingPlan(key="", benchmark="", k=1, chunks=1, think_end_token=_THINK_END)
    asked = [
        (
            AskedQuestion(id=one.id, answer=one.answer, reading=one.reading),
            [Generation(question=one.id, sample=0, seed=0, text=text, tokens=0, finish="stop")],
        )
        for one, text in responses
    ]
    return [score.samples[0] for score in scoring.score(benchmark, plan, asked, math)]


if __name__ == "__main__":
    run_program(main)
