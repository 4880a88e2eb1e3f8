"""Scoring: from generations to right or wrong. jobspec/results/benchmark_scores.py has the numbers.

Needs no model: `python -m worker.evaluation.rescore` does it again from what an evaluation
leaves on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jobspec.benchmarks.benchmark import Benchmark
from jobspec.records.evaluation import (
    AskedQuestion,
    Generation,
    QuestionScore,
    SampleScore,
    SamplingPlan,
)
from worker.grading.graders import GRADERS
from worker.grading.math_grader import MathGrader
from worker.grading.math_reader import Judgement
from worker.thinking import ThinkTags, answer_text, think_tags


def score(
    benchmark: Benchmark,
    plan: SamplingPlan,
    asked: Sequence[tuple[AskedQuestion, Sequence[Generation]]],
    math: MathGrader,
) -> list[QuestionScore]:
    """Judge every sample of a benchmark.

    A sample is right if it ended by itself, closed the think block it was in, and gives the answer
    after it. A sample cut off by length counts as having no answer, whatever its text says.
    """
    rows = [[_final_text(question, row, plan) for row in drawn] for question, drawn in asked]
    texts = [[None if each.truncated else each.text for each in group] for group in rows]
    questions = [question for question, _ in asked]
    judgements = GRADERS[benchmark.grader](benchmark, questions, texts, math)
    return [
        QuestionScore(
            id=question.id,
            answer=question.answer,
            samples=tuple(map(_sample_score, drawn, group, judged)),
        )
        for (question, drawn), group, judged in zip(asked, rows, judgements, strict=True)
    ]


class _FinalText(NamedTuple):
    """The text after thinking, up to a stop string; None if thinking was not closed."""

    text: str | None
    truncated: bool


def _final_text(question: AskedQuestion, row: Generation, plan: SamplingPlan) -> _FinalText:
    tags = think_tags(plan.think_end_token)
    text = after_thinking(row, tags, opened=question.opens_think)
    stops = plan.protocol.stop_after_thinking or ()
    places = [] if text is None else [at for at in map(text.find, stops) if at >= 0]
    if text is None or not places:
        return _FinalText(text, row.finish == "length")
    return _FinalText(text[: min(places)], False)  # what follows a stop string was not asked for


def after_thinking(row: Generation, tags: ThinkTags | None, *, opened: bool) -> str | None:
    """The text of a sample after its thinking; None if that was not closed.

    Args:
        opened: whether the prompt opened a think block.
    """
    if tags is None or row.thinking is None:
        return answer_text(row.text, tags, opened=opened)
    return None if row.thinking == "open" else row.text[row.answer_start :]


def _sample_score(row: Generation, final: _FinalText, judgement: Judgement) -> SampleScore:
    return SampleScore(
        sample=row.sample,
        right=judgement.right,
        answer=judgement.answer,
        tokens=row.tokens,
        truncated=final.truncated,
        unclosed=final.text is None,
        rule=judgement.rule,
        read=judgement.read,
        value=judgement.value if judgement.value != judgement.answer else None,
    )
