"""Scoring: from generations to right or wrong, and from these to the numbers reported.

Needs no model: `python -m worker.evaluation.rescore` does it again from what an evaluation
leaves on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from jobspec.benchmarks.benchmark import Benchmark
from jobspec.records.evaluation import (
    AskedQuestion,
    Generation,
    QuestionScore,
    SampleScore,
    SamplingPlan,
)
from jobspec.records.reports import ScoringProtocol
from jobspec.results import confidence
from worker.evaluation.graders import GRADERS
from worker.evaluation.math_grader import Judgement, MathGrader
from worker.evaluation.metrics import majority, mean, pass_at, pass_at_js
from worker.thinking import ThinkTags, answer_text, think_tags

Metric = Callable[[Sequence[QuestionScore]], float | None]


class BenchmarkResult(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one benchmark. `metrics` are named without the benchmark."""

    benchmark: str
    metrics: dict[str, float | None]
    intervals: dict[str, tuple[float | None, float | None]]
    protocol: ScoringProtocol


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
    tags = think_tags(plan.think_end_token)
    stops = plan.protocol.stop_after_thinking or ()
    texts = [[_readable(question, row, tags, stops) for row in rows] for question, rows in asked]
    questions = [question for question, _ in asked]
    judgements = GRADERS[benchmark.grader](benchmark, questions, texts, math)
    return [
        QuestionScore(
            id=question.id,
            answer=question.answer,
            samples=tuple(
                _sample_score(question, row, judgement, tags)
                for row, judgement in zip(rows, judged, strict=True)
            ),
        )
        for (question, rows), judged in zip(asked, judgements, strict=True)
    ]


def _sample_score(
    question: AskedQuestion, row: Generation, judgement: Judgement, tags: ThinkTags | None
) -> SampleScore:
    return SampleScore(
        sample=row.sample,
        right=judgement.right,
        answer=judgement.answer,
        tokens=row.tokens,
        truncated=row.finish == "length",
        unclosed=answer_text(row.text, tags, opened=question.opens_think) is None,
    )


def metrics(benchmark: Benchmark, k: int) -> dict[str, Metric]:
    """Every number reported of a benchmark, the main one first: name → how it is computed."""
    repeated = benchmark.metric is None or k > 1
    found: dict[str, Metric] = {benchmark.main_metric(k): _average}
    if repeated:
        found[f"avg_at_{k}"] = _average
    found |= {
        "stderr": lambda scores: confidence.stderr(_means(scores)),
        "sampling_stderr": lambda scores: confidence.sampling_stderr(_counts(scores)),
        "truncated_frac": _fraction(lambda sample: sample.truncated),
        "unclosed_think_frac": _fraction(lambda sample: sample.unclosed),
        "no_answer_frac": _fraction(lambda sample: sample.answer is None),
        "mean_response_tokens": _fraction(lambda sample: sample.tokens),
    }
    if repeated:
        for j in pass_at_js(k):
            found[f"pass_at_{j}"] = _pass_at(k, j)
        found[f"maj_at_{k}"] = _majority
    return found


def intervals(
    scores: Sequence[QuestionScore], k: int
) -> dict[str, tuple[float | None, float | None]]:
    """95 % intervals of the main number: over other questions, and over other samples of these."""
    centre = _average(scores)
    spread = confidence.stderr(_means(scores))
    noise = confidence.sampling_stderr(_counts(scores))
    return {
        "questions": confidence.over_questions(centre, spread, len(scores), k),
        "samples": confidence.over_samples(centre, noise, len(scores) * k, k),
    }


def _readable(
    question: AskedQuestion, row: Generation, tags: ThinkTags | None, stops: tuple[str, ...]
) -> str | None:
    """The text from which the answer is read; None if the response can have no answer."""
    text = answer_text(row.text, tags, opened=question.opens_think)
    if text is None or row.finish == "length":
        return None
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text


def _means(scores: Sequence[QuestionScore]) -> list[float]:
    return [score.correct / len(score.samples) for score in scores]


def _counts(scores: Sequence[QuestionScore]) -> list[tuple[int, int]]:
    return [(score.correct, len(score.samples)) for score in scores]


def _average(scores: Sequence[QuestionScore]) -> float:
    return mean(_means(scores))


def _fraction(value: Callable[[SampleScore], float]) -> Metric:
    return lambda scores: mean([value(s) for score in scores for s in score.samples])


def _pass_at(k: int, j: int) -> Metric:
    return lambda scores: mean([pass_at(score.correct, k, j) for score in scores])


def _majority(scores: Sequence[QuestionScore]) -> float:
    return mean([_majority_of(score) for score in scores])


def _majority_of(score: QuestionScore) -> float:
    answers = [sample.answer for sample in score.samples]
    return majority(answers, [sample.right for sample in score.samples])
