"""Scoring: from generations to right or wrong, and from these to the numbers reported.

Needs no model: `python -m worker.evaluation.rescore` does it again from what an evaluation
leaves on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from jobspec.benchmarks.benchmark import Benchmark
from jobspec.records.base import UNSET
from jobspec.records.evaluation import (
    AskedQuestion,
    Generation,
    QuestionScore,
    SampleScore,
    SamplingPlan,
)
from jobspec.records.reports import EarlyStop, ScoringProtocol
from jobspec.results import confidence, confidence_sequence
from worker.evaluation.metrics import majority, mean, pass_at, pass_at_js
from worker.grading.graders import GRADERS
from worker.grading.math_grader import MathGrader
from worker.grading.math_reader import Judgement
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


def make_result(
    benchmark: Benchmark, plan: SamplingPlan, scores: Sequence[QuestionScore]
) -> BenchmarkResult:
    """Every number of a benchmark, from the scores of its questions."""
    found = {name: metric(scores) for name, metric in metrics(benchmark, plan.k).items()}
    bounds = intervals(scores, plan.k)
    rule = plan.protocol.stop_rule
    if rule is not UNSET:
        low, high = _anytime_interval(scores, rule)
        bounds["samples"] = (low, high)
        saved = (rule.k_at_most - plan.k) * len(scores) - plan.discarded
        tokens = saved * (found["mean_response_tokens"] or 0.0)
        found |= {"anytime_low": low, "anytime_high": high}
        found |= {"samples_saved": float(saved), "tokens_saved": float(round(tokens))}
    return BenchmarkResult(
        benchmark=plan.benchmark, metrics=found, intervals=bounds, protocol=plan.protocol
    )


def _anytime_interval(scores: Sequence[QuestionScore], rule: EarlyStop) -> tuple[float, float]:
    outcomes = [[sample.right for sample in score.samples] for score in scores]
    return confidence_sequence.bounds(outcomes, rule.half_width)


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
        "samples": confidence.over_samples(centre, noise, len(scores) * k),
    }


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
    answers = [sample.value or sample.answer for sample in score.samples]
    return majority(answers, [sample.right for sample in score.samples])
