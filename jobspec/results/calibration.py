"""Makes specs that reproduce published scores, and compares our scores with the published ones.

Both scores are for the same questions, so only the sampling error counts. The error over questions
(±11 to 13 points for 30 questions) would accept almost any score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from jobspec.benchmarks import protocol
from jobspec.benchmarks.published import PublishedResult, PublishedScore
from jobspec.queue.job import Job
from jobspec.records import evaluation
from jobspec.records.reports import ScoringProtocol
from jobspec.results import confidence
from jobspec.results.evaluations import evaluated_attempt
from jobspec.spec import identity, parsing
from jobspec.spec.builder import slug
from jobspec.spec.schema import BenchmarkOverrides, EvalSpec, JobSpec, ModelSpec

_OWN_K = 4  # our number of samples if the published k is unknown; enough for the sampling error


class CalibrationRow(msgspec.Struct, frozen=True, kw_only=True):
    """One model and benchmark in `calibrate --json`. Scores, differences and errors in percent.

    Attributes:
        within: whether the difference lies within 1.96 × √(`ours_error`² + `published_error`²);
            null if an error is not known.
        differs: our settings that differ from the published ones.
    """

    model: str
    variant: str
    benchmark: str
    job: str
    ours: float
    published: float
    difference: float
    ours_error: float | None
    published_error: float | None
    within: bool | None
    differs: list[str]
    source: str


def spec_of(entry: PublishedResult, model: str | None = None) -> JobSpec:
    """Make the spec that reproduces a published result, with its model and settings.

    Args:
        model: the model's directory, to be used instead of its name on the hub.
    """
    overrides = {
        name: BenchmarkOverrides(avg_k=score.k or _OWN_K, max_gen_toks=score.max_gen_toks)
        for name, score in entry.scores.items()
    }
    fields = {"benchmarks": list(entry.scores), "overrides": overrides, **entry.eval}
    made = JobSpec(
        name=f"calibrate-{slug(entry.model)}-{entry.variant}"[:100],
        model=ModelSpec(name=model or entry.model),
        train=None,
        eval=msgspec.convert(msgspec.to_builtins(fields), EvalSpec),
    )
    return parsing.decode(identity.canonical(made))


def rows(entry: PublishedResult, job: Job) -> list[CalibrationRow]:
    """Compare each benchmark of a published result. Raises BenchmarkError if scores are missing."""
    directories = evaluation.benchmark_dirs(evaluated_attempt(job).eval)
    return [_row(entry, name, job, directories[name]) for name in entry.scores]


def _row(entry: PublishedResult, name: str, job: Job, directory: Path) -> CalibrationRow:
    published = entry.scores[name]
    outcomes = evaluation.outcomes(evaluation.read_scores(directory))
    ours = 100 * sum(sum(samples) / len(samples) for samples in outcomes.values()) / len(outcomes)
    ours_error, published_error = _errors(list(outcomes.values()), published)
    difference = ours - published.score
    return CalibrationRow(
        model=entry.model,
        variant=entry.variant,
        benchmark=name,
        job=job.id,
        ours=ours,
        published=published.score,
        difference=difference,
        ours_error=ours_error,
        published_error=published_error,
        within=_within(difference, ours_error, published_error),
        differs=_differing(entry, published, evaluation.read_plan(directory).protocol),
        source=entry.source,
    )


def _errors(
    outcomes: Sequence[Sequence[float]], published: PublishedScore
) -> tuple[float | None, float | None]:
    """The sampling errors of our score and of the published one, in percentage points.

    The published results have no scores per question, so ours are used for both errors.
    """
    if any(len(samples) < 2 for samples in outcomes):
        return None, None
    means = [(sum(samples) / len(samples), len(samples)) for samples in outcomes]
    draws = (published.k or 1) * published.runs
    our_variance = math.fsum(p * (1 - p) / (k - 1) for p, k in means)
    published_variance = math.fsum(p * (1 - p) * k / (k - 1) / draws for p, k in means)
    return 100 * math.sqrt(our_variance) / len(means), 100 * math.sqrt(published_variance) / len(
        means
    )


def _within(difference: float, ours: float | None, published: float | None) -> bool | None:
    if ours is None or published is None:
        return None
    low, high = confidence.normal(difference, math.hypot(ours, published))
    rounding = 0.05  # published to one decimal
    return low - rounding <= 0 <= high + rounding


def _differing(
    entry: PublishedResult, published: PublishedScore, used: ScoringProtocol
) -> list[str]:
    fields = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "chat_template_kwargs")
    wanted = {field: entry.eval.get(field) for field in fields}
    wanted["chat_template_kwargs"] = wanted["chat_template_kwargs"] or {}
    wanted |= {"max_gen_toks": published.max_gen_toks, "questions": published.questions, "shots": 0}
    return [
        f"{field} {protocol.spell(ours)} instead of {protocol.spell(value)}"
        for field, value in wanted.items()
        if (ours := protocol.value_of(used, field)) != value
    ]
