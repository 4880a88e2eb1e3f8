"""The readers of users' own benchmarks and of several others, by name: `GRADERS`.

`math` is not among them: it is `graders.grade_with_math_verify`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from jobspec.benchmarks import ifeval
from jobspec.benchmarks.benchmark import Benchmark
from jobspec.benchmarks.multiple_choice import read_choice
from jobspec.benchmarks.own import CHOICE, CODE, EXACT, NUMBER, REGEX
from jobspec.readers.numbers import number_in, read_number
from jobspec.readers.reading import Answer
from jobspec.readers.texts import plain_text, read_program, read_text
from jobspec.records.evaluation import AskedQuestion, Reading
from worker.grading import instructions, programs
from worker.grading.math_grader import MathGrader
from worker.grading.math_reader import Judgement

Texts = Sequence[Sequence[str | None]]
_SHOWN = 200  # characters
PATTERN = "pattern"


def _reading(question: AskedQuestion) -> Reading:
    assert question.reading is not None
    return question.reading


def _judge_each(
    read: Callable[[AskedQuestion, str], Answer], expected: Callable[[AskedQuestion], str | None]
) -> Callable[..., list[list[Judgement]]]:
    """A grader that reads one response after the other and compares values as text."""

    def grade(
        benchmark: Benchmark, questions: Sequence[AskedQuestion], texts: Texts, math: MathGrader
    ) -> list[list[Judgement]]:
        del benchmark, math
        return [
            [_judgement(read(question, text or ""), expected(question)) for text in group]
            for question, group in zip(questions, texts, strict=True)
        ]

    return grade


def _judgement(answer: Answer, expected: str | None) -> Judgement:
    right = answer.value is not None and answer.value == expected
    read = None if answer.read is None else answer.read[:_SHOWN]
    return Judgement(right, answer.value, answer.rule, None, read)


def _match_patterns(
    benchmark: Benchmark, questions: Sequence[AskedQuestion], texts: Texts, math: MathGrader
) -> list[list[Judgement]]:
    """Right where the last match of the question's pattern is the expected text."""
    del benchmark
    searches = [
        (_reading(question).pattern or "", text or "")
        for question, group in zip(questions, texts, strict=True)
        for text in group
    ]
    found = iter(math.matches(searches))
    return [
        [_judgement(_matched(next(found)), plain_text(question.answer)) for _ in group]
        for question, group in zip(questions, texts, strict=True)
    ]


def _matched(found: tuple[str, str] | None) -> Answer:
    return Answer() if found is None else Answer(plain_text(found[0]) or None, PATTERN, found[1])


def _run_programs(
    benchmark: Benchmark, questions: Sequence[AskedQuestion], texts: Texts, math: MathGrader
) -> list[list[Judgement]]:
    """Right where the program of a response passes its question's tests, in a sandbox."""
    del benchmark, math
    answers = [[read_program(text or "") for text in group] for group in texts]
    tried = [
        (answer.value, _reading(question))
        for question, group in zip(questions, answers, strict=True)
        for answer in group
        if answer.value is not None
    ]
    outcomes = dict(
        zip(dict.fromkeys(tried), programs.pass_tests(dict.fromkeys(tried)), strict=True)
    )
    return [
        [
            _of_program(answer, outcomes.get((answer.value or "", _reading(question))))
            for answer in group
        ]
        for question, group in zip(questions, answers, strict=True)
    ]


def _follow_instructions(
    benchmark: Benchmark, questions: Sequence[AskedQuestion], texts: Texts, math: MathGrader
) -> list[list[Judgement]]:
    """Right where a response follows all instructions of its question."""
    instructions.check_benchmark(benchmark)
    checks = [
        (instructions.instructions_of(question), text or "")
        for question, group in zip(questions, texts, strict=True)
        for text in group
    ]
    found = iter(math.followed(checks))
    return [
        [instructions.judgement(instructions.names_of(question), next(found)) for _ in group]
        for question, group in zip(questions, texts, strict=True)
    ]


def _of_program(answer: Answer, passed: bool | None) -> Judgement:
    if answer.value is None or passed is None:
        return Judgement(False, None, answer.rule)
    spelling = hashlib.sha256(answer.value.strip().encode("utf-8", "replace")).hexdigest()[:12]
    outcome = "passes its tests" if passed else "fails its tests"
    return Judgement(passed, outcome, answer.rule, spelling, (answer.read or "")[:_SHOWN])


GRADERS: dict[str, Callable[..., list[list[Judgement]]]] = {
    NUMBER: _judge_each(lambda _, text: read_number(text), lambda q: number_in(q.answer)),
    CHOICE: _judge_each(lambda q, text: read_choice(text, _reading(q).choices), lambda q: q.answer),
    EXACT: _judge_each(lambda _, text: read_text(text), lambda q: plain_text(q.answer)),
    REGEX: _match_patterns,
    CODE: _run_programs,
    ifeval.READER: _follow_instructions,
}
