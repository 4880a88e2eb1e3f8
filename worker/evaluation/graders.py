"""Graders by name: from the text after thinking to right or wrong, and the answer read from it.

`Benchmark.grader` names one of `GRADERS`. A benchmark whose answers can be compared as text needs
no grader of its own: `exact` uses its `extract_answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jobspec.benchmarks.benchmark import Benchmark
from jobspec.records.evaluation import AskedQuestion
from worker.evaluation.math_grader import Judgement, MathGrader

# For each question the texts that may hold its answer, a sample each; None: there can be none.
Texts = Sequence[Sequence[str | None]]
Grader = Callable[[Benchmark, Sequence[AskedQuestion], Texts, MathGrader], "list[list[Judgement]]"]


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


def grade_with_math_verify(
    benchmark: Benchmark, questions: Sequence[AskedQuestion], texts: Texts, math: MathGrader
) -> list[list[Judgement]]:
    """Right where math_verify finds the text equal to the worked solution, or else the answer."""
    del benchmark
    pairs = [
        (question.solution or f"\\boxed{{{question.answer}}}", text)
        for question, group in zip(questions, texts, strict=True)
        for text in group
        if text is not None
    ]
    judgements = iter(math.grade(pairs))
    return [
        [Judgement(False, None) if text is None else next(judgements) for text in group]
        for group in texts
    ]


GRADERS: dict[str, Grader] = {
    "exact": grade_exactly,
    "math_verify": grade_with_math_verify,
}
