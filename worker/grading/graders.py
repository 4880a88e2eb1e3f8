"""Graders by name: from the text after thinking to right or wrong, and the answer read from it.

`Benchmark.grader` names one of `GRADERS`. A benchmark whose answers can be compared as text needs
no grader of its own: `exact` uses its `extract_answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jobspec.benchmarks.benchmark import Benchmark
from jobspec.benchmarks.own import MATH
from jobspec.readers.final_answer import boxes
from jobspec.readers.integers import LARGEST, IntegerReading, read_integer
from jobspec.records.evaluation import AskedQuestion
from worker.grading import readers
from worker.grading.math_grader import MathGrader
from worker.grading.math_reader import MATH_VERIFY, Judgement

# For each question the texts that may hold its answer, a sample each; None: there can be none.
Texts = Sequence[Sequence[str | None]]
Grader = Callable[[Benchmark, Sequence[AskedQuestion], Texts, MathGrader], "list[list[Judgement]]"]

_NO_ANSWER = Judgement(False, None)
_NO_INTEGER = IntegerReading(None)


def grade_exactly(
    benchmark: Benchmark, questions: Sequence[AskedQuestion], texts: Texts, math: MathGrader
) -> list[list[Judgement]]:
    """Right where the extracted answer is spelled as the expected one."""
    del math
    extract = benchmark.extract_answer
    assert extract is not None, f"{benchmark.name} has no `extract_answer`"
    answers = [[None if text is None else extract(text) for text in group] for group in texts]
    return [
        [Judgement(answer == question.answer, answer) for answer in group]
        for question, group in zip(questions, answers, strict=True)
    ]


def grade_integers(
    benchmark: Benchmark, questions: Sequence[AskedQuestion], texts: Texts, math: MathGrader
) -> list[list[Judgement]]:
    """Right where the response gives the expected integer.

    math_verify reads what the rules do not decide.
    """
    del benchmark
    readings = [
        [_NO_INTEGER if text is None else read_integer(text) for text in group] for group in texts
    ]
    asked = [reading.ask for group in readings for reading in group if reading.ask is not None]
    found = dict(zip(asked, math.integers(asked), strict=True))
    return [
        [_integer_judgement(question.answer, reading, found) for reading in group]
        for question, group in zip(questions, readings, strict=True)
    ]


def _integer_judgement(
    expected: str, reading: IntegerReading, found: dict[str, str | None]
) -> Judgement:
    answer, rule = reading.answer, reading.rule
    if reading.ask is not None:
        answer, rule = found[reading.ask], f"{rule}, {MATH_VERIFY}"
        if answer is not None and int(answer) > LARGEST:
            answer = None
    return Judgement(answer == expected, answer, rule, None, reading.read)


def grade_with_math_verify(
    benchmark: Benchmark, questions: Sequence[AskedQuestion], texts: Texts, math: MathGrader
) -> list[list[Judgement]]:
    """Right where the text's answer equals that of the worked solution, or else the answer."""
    del benchmark
    pairs = [
        (_gold(question), text)
        for question, group in zip(questions, texts, strict=True)
        for text in group
        if text is not None
    ]
    judgements = iter(math.grade(pairs))
    groups = [
        [_NO_ANSWER if text is None else next(judgements) for text in group] for group in texts
    ]
    return _with_values(groups, math)


def grade_by_reader(
    benchmark: Benchmark, questions: Sequence[AskedQuestion], texts: Texts, math: MathGrader
) -> list[list[Judgement]]:
    """Right where the reader that each question names finds the expected answer."""
    judged: dict[int, list[Judgement]] = {}
    for reader in dict.fromkeys(_reader(question) for question in questions):
        mine = [i for i, question in enumerate(questions) if _reader(question) == reader]
        grade = grade_with_math_verify if reader == MATH else readers.GRADERS[reader]
        found = grade(benchmark, [questions[i] for i in mine], [texts[i] for i in mine], math)
        judged |= dict(zip(mine, found, strict=True))
    return [judged[i] for i in range(len(questions))]


def _reader(question: AskedQuestion) -> str:
    assert question.reading is not None, f"`{question.id}` names no reader"
    return question.reading.reader


def _gold(question: AskedQuestion) -> str:
    solution = question.solution
    return solution if solution and boxes(solution) else f"\\boxed{{{question.answer}}}"


def _with_values(groups: list[list[Judgement]], math: MathGrader) -> list[list[Judgement]]:
    """The judgements with one `value` for all answers of a question that are equal by value.

    Right answers equal each other, and so do numbers that are rounded to the same one. Only other
    spellings of wrong answers are compared with each other.
    """
    unclear = [list(dict.fromkeys(filter(None, map(_unclear, group)))) for group in groups]
    compared = [spellings for spellings in unclear if len(spellings) > 1]
    numbers = iter(math.classes(compared))
    valued: list[list[Judgement]] = []
    for group, spellings in zip(groups, unclear, strict=True):
        classes = next(numbers) if len(spellings) > 1 else range(len(spellings))
        first = {number: spelling for spelling, number in zip(
            reversed(spellings), reversed(classes), strict=True)}  # fmt: skip
        names = {s: first[number] for s, number in zip(spellings, classes, strict=True)}
        right = next((each.answer for each in group if each.right), None)
        valued.append([_valued(each, names, right) for each in group])
    return valued


def _unclear(judgement: Judgement) -> str | None:
    """The spelling of a wrong answer that is not a number."""
    wrong = not judgement.right and judgement.value is None
    return judgement.answer if wrong else None


def _valued(judgement: Judgement, names: dict[str, str], right: str | None) -> Judgement:
    if judgement.right:
        return judgement._replace(value=right)
    if judgement.answer is None or judgement.value is not None:
        return judgement
    return judgement._replace(value=names[judgement.answer])


GRADERS: dict[str, Grader] = {
    "exact": grade_exactly,
    "integer": grade_integers,
    "math_verify": grade_with_math_verify,
    "reader": grade_by_reader,
}
