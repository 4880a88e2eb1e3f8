"""Scoring: from raw generations to verdicts, from verdicts to the numbers reported.

Needs no model: `python -m worker.evaluation.rescore` does it again from what an evaluation
leaves on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from jobspec.records.evaluation import Asked, Generation, Plan, QuestionScore, SampleScore
from jobspec.results import confidence as ranges
from worker.evaluation import metrics as stats
from worker.evaluation.answer_extraction import Thinking, aime_answer, answer_text
from worker.evaluation.math_grader import Judge, Judged

Metric = Callable[[Sequence[QuestionScore]], float | None]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one benchmark came to. `metrics` are named without the benchmark."""

    benchmark: str
    metrics: dict[str, float | None]
    intervals: dict[str, tuple[float | None, float | None]]
    protocol: dict[str, Any]


def score(
    plan: Plan, asked: Sequence[tuple[Asked, Sequence[Generation]]], judge: Judge
) -> list[QuestionScore]:
    """Judge every sample of a benchmark.

    A sample is right if it ended by itself, closed the think block it was in, and gives the answer
    after it. One cut off by length has no answer, whatever its text holds.
    """
    thinking = Thinking.from_end(plan.think_end_token)
    stops = tuple(plan.protocol.get("stop_after_thinking", ()))
    texts = [
        [_readable(question, row, thinking, stops) for row in rows] for question, rows in asked
    ]
    read = _read_aime if plan.form == "aime" else _read_math
    verdicts = read([question for question, _ in asked], texts, judge)
    return [
        QuestionScore(
            id=question.id,
            answer=question.answer,
            samples=tuple(
                SampleScore(
                    sample=row.sample,
                    right=right,
                    answer=answer,
                    tokens=row.tokens,
                    truncated=row.finish == "length",
                    unclosed=answer_text(row.text, thinking, opened=question.opens_think) is None,
                )
                for row, (right, answer) in zip(rows, judged, strict=True)
            ),
        )
        for (question, rows), judged in zip(asked, verdicts, strict=True)
    ]


def metrics(form: Literal["aime", "math"], k: int) -> dict[str, Metric]:
    """Every number reported of a benchmark, the main one first: name → how it is computed."""
    main = f"avg_at_{k}" if form == "aime" or k > 1 else "math_verify"
    found: dict[str, Metric] = {
        main: _average,
        "stderr": lambda scores: ranges.stderr(_means(scores)),
        "sampling_stderr": lambda scores: ranges.sampling_stderr(_counts(scores)),
        "truncated_frac": _fraction(lambda sample: sample.truncated),
        "unclosed_think_frac": _fraction(lambda sample: sample.unclosed),
        "no_answer_frac": _fraction(lambda sample: sample.answer is None),
        "mean_response_tokens": _fraction(lambda sample: sample.tokens),
    }
    if form == "math" and k > 1:
        found = {"math_verify": _average, **found}
    if form == "aime" or k > 1:
        for j in stats.pass_at_js(k):
            found[f"pass_at_{j}"] = _pass_at(k, j)
        found[f"maj_at_{k}"] = _majority
    return found


def intervals(
    scores: Sequence[QuestionScore], k: int
) -> dict[str, tuple[float | None, float | None]]:
    """95 % intervals of the main number: over questions of this kind, over samples of these."""
    centre = _average(scores)
    spread = ranges.stderr(_means(scores))
    noise = ranges.sampling_stderr(_counts(scores))
    return {
        "questions": ranges.over_questions(centre, spread, len(scores), k),
        "samples": ranges.over_samples(centre, noise, len(scores) * k, k),
    }


def _readable(
    question: Asked, row: Generation, thinking: Thinking | None, stops: tuple[str, ...]
) -> str | None:
    """The text an answer may be read from; None where there can be none."""
    text = answer_text(row.text, thinking, opened=question.opens_think)
    if text is None or row.finish == "length":
        return None
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text


def _read_aime(
    questions: Sequence[Asked], texts: Sequence[Sequence[str | None]], judge: Judge
) -> list[list[Judged]]:
    del judge  # integers need no algebra
    return [
        [Judged(answer == question.answer, answer) for answer in map(_aime, group)]
        for question, group in zip(questions, texts, strict=True)
    ]


def _aime(text: str | None) -> str | None:
    return None if text is None else aime_answer(text)


def _read_math(
    questions: Sequence[Asked], texts: Sequence[Sequence[str | None]], judge: Judge
) -> list[list[Judged]]:
    pairs = [
        (question.solution or f"\\boxed{{{question.answer}}}", text)
        for question, group in zip(questions, texts, strict=True)
        for text in group
        if text is not None
    ]
    verdicts = iter(judge.judge(pairs))
    return [
        [Judged(False, None) if text is None else next(verdicts) for text in group]
        for group in texts
    ]


def _means(scores: Sequence[QuestionScore]) -> list[float]:
    return [score.correct / len(score.samples) for score in scores]


def _counts(scores: Sequence[QuestionScore]) -> list[tuple[int, int]]:
    return [(score.correct, len(score.samples)) for score in scores]


def _average(scores: Sequence[QuestionScore]) -> float:
    return stats.mean(_means(scores))


def _fraction(value: Callable[[SampleScore], float]) -> Metric:
    return lambda scores: stats.mean([value(s) for score in scores for s in score.samples])


def _pass_at(k: int, j: int) -> Metric:
    return lambda scores: stats.mean([stats.pass_at(score.correct, k, j) for score in scores])


def _majority(scores: Sequence[QuestionScore]) -> float:
    return stats.mean([_majority_of(score) for score in scores])


def _majority_of(score: QuestionScore) -> float:
    answers = [sample.answer for sample in score.samples]
    return stats.majority(answers, [sample.right for sample in score.samples])
