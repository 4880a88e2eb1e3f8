"""The numbers of a benchmark, from the scores of its samples.

A worker computes them when it has scored the samples. `jobspec verify` computes them again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from jobspec.benchmarks.benchmark import Benchmark
from jobspec.records.base import UNSET
from jobspec.records.evaluation import QuestionScore, SampleScore, SamplingPlan
from jobspec.records.reports import EarlyStop, ScoringProtocol
from jobspec.results import confidence, confidence_sequence
from jobspec.results.sample_statistics import majority, mean, pass_at, pass_at_js

Metric = Callable[[Sequence[QuestionScore]], float | None]


class BenchmarkResult(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one benchmark. `metrics` are named without the benchmark."""

    benchmark: str
    metrics: dict[str, float | None]
    intervals: dict[str, tuple[float | None, float | None]]
    protocol: ScoringProtocol


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
