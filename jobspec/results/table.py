"""Scores of finished jobs, one row per job; a base model is listed with its fine-tuned models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from jobspec.monitoring import status
from jobspec.records import base as records
from jobspec.records.attempt import Result
from jobspec.records.base import UNSET, State
from jobspec.records.reports import EvalReport, LossChange, ScoringProtocol
from jobspec.results.difference import Difference

if TYPE_CHECKING:
    from jobspec.queue.job import Job
    from jobspec.spec.schema import JobSpec

SCHEMA = 1
_KEY = re.compile(r"bench/(?P<benchmark>[^/]+)/(?P<metric>[^/]+)")
# Metrics of a benchmark that are not its score.
_OTHER_METRICS = re.compile(
    r"stderr|sampling_stderr|.*_frac|mean_response_tokens|pass_at_\d+|maj_at_\d+|.*_stderr(?:,.*)?"
    r"|anytime_low|anytime_high|samples_saved|tokens_saved"
)
_ENDS = ("low", "high", "sampling_low", "sampling_high")


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """The score of one benchmark. jobspec/results/confidence.py computes the intervals.

    Attributes:
        stderr: standard error over questions.
        sampling_stderr: standard error within questions.
        low, high: 95 % interval over other questions of this kind.
        sampling_low, sampling_high: 95 % interval over other samples of these questions; with a
            stop rule, one that is valid whenever sampling ends.
        higher_is_better: false for a perplexity and other numbers that should be low.
        k: samples a question.
        k_at_most: with a stop rule, the samples a question that there could have been.
        samples_saved, tokens_saved: what the rule spared; the tokens are estimated from the mean.
    """

    metric: str
    value: float
    stderr: float | None = None
    sampling_stderr: float | None = None
    truncated_frac: float | None = None
    best: bool = False
    low: float | None = None
    high: float | None = None
    sampling_low: float | None = None
    sampling_high: float | None = None
    mean_response_tokens: float | None = None
    questions: int | None = None
    higher_is_better: bool = True
    k: int | None = None
    k_at_most: int | None = None
    samples_saved: int | None = None
    tokens_saved: int | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval over questions, or else over samples; None if neither is known."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        if self.sampling_low is not None and self.sampling_high is not None:
            return self.sampling_low, self.sampling_high
        return None


class ResultRow(msgspec.Struct, frozen=True, kw_only=True):
    """One job in `results --json`.

    Attributes:
        learning_rate: null for a model that was not trained.
        kind: `tuned`; `base`; or `calibrated`, a base model with the settings of its published
            scores.
        loss_rise: of a training that made the loss higher.
        failed: the benchmarks without a score, of a job that failed for them, and why.
        against: the difference from the job that was asked for, where it can be compared.
    """

    job: str
    name: str
    model: str
    learning_rate: float | None
    num_train_epochs: float | None
    attempt: int
    scores: dict[str, Score]
    metrics: dict[str, float | None]
    kind: str = "tuned"
    loss_rise: LossChange | None = None
    failed: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    against: dict[str, Difference] = msgspec.field(default_factory=dict[str, Difference])


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `results --json`."""

    schema: int = SCHEMA
    root: str
    results: list[ResultRow]


def rows(jobs: Iterable[Job]) -> list[ResultRow]:
    """List the scores of finished jobs by model (base model first), then by learning rate.

    A job that failed is listed if some of its benchmarks have a score. The best score of a
    benchmark is marked if another job has a worse one with the same metric.
    """
    listed: list[ResultRow] = []
    for job in jobs:
        if job.state is State.SUCCEEDED and (result := status.result(job)) is not None:
            listed.append(_row(job, result))
        elif job.state is State.FAILED and (partial := _partial_scores(job)) is not None:
            result = Result(
                job=job.id, attempt=job.attempt, metrics=partial.metrics, protocol=partial.protocol
            )
            failed = partial.failed or {}
            listed.append(msgspec.structs.replace(_row(job, result), failed=failed))
    listed.sort(key=lambda row: (row.model, row.learning_rate or 0.0, row.name, row.job))
    return _mark_best(listed)


def benchmarks(listed: Sequence[ResultRow]) -> list[str]:
    """List the benchmarks of all rows, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in listed for name in row.scores))


def scores(
    metrics: Mapping[str, float | None], protocol: Mapping[str, ScoringProtocol] | None = None
) -> dict[str, Score]:
    """Extract the score of each benchmark from a result's metrics, with its intervals.

    Args:
        protocol: the result's protocol, which has the number of questions.
    """
    return {
        name: _score(
            metric,
            value,
            f"bench/{name}/",
            metrics,
            (protocol or {}).get(name) or ScoringProtocol(),
        )
        for name, (metric, value) in main_metrics(metrics).items()
    }


def main_metrics(metrics: Mapping[str, float | None]) -> dict[str, tuple[str, float]]:
    """The metric and value of each benchmark's score: its first metric that is no error or rate."""
    scores: dict[str, tuple[str, float]] = {}
    for key, value in metrics.items():
        parts = _KEY.fullmatch(key)
        if parts is None or value is None or _OTHER_METRICS.fullmatch(parts["metric"]):
            continue
        scores.setdefault(parts["benchmark"], (parts["metric"], value))
    return scores


def _score(
    metric: str,
    value: float,
    prefix: str,
    metrics: Mapping[str, float | None],
    protocol: ScoringProtocol,
) -> Score:
    from jobspec.results import confidence  # imported here, because `status` does not need it

    error, noise = metrics.get(prefix + "stderr"), metrics.get(prefix + "sampling_stderr")
    questions, k = _count(protocol.questions, 2), _count(protocol.k, 1)
    samples = questions * k if questions and k else None
    low, high = confidence.over_questions(value, error, questions, k)
    sampling_low, sampling_high = confidence.over_samples(value, noise, samples)
    rule = None if protocol.stop_rule is UNSET else protocol.stop_rule
    if rule is not None:
        sampling_low, sampling_high = (metrics.get(f"{prefix}anytime_{e}") for e in ("low", "high"))
    return Score(
        metric=metric,
        value=value,
        stderr=error,
        sampling_stderr=noise,
        truncated_frac=metrics.get(prefix + "truncated_frac"),
        low=low,
        high=high,
        sampling_low=sampling_low,
        sampling_high=sampling_high,
        mean_response_tokens=metrics.get(prefix + "mean_response_tokens"),
        questions=questions,
        higher_is_better=protocol.higher_is_better is not False,
        k=k,
        k_at_most=None if rule is None else rule.k_at_most,
        samples_saved=_whole(metrics.get(prefix + "samples_saved")),
        tokens_saved=_whole(metrics.get(prefix + "tokens_saved")),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _count(value: object, least: int) -> int | None:
    return value if isinstance(value, int) and value >= least else None


def to_csv(listed: Sequence[ResultRow]) -> str:
    """Format rows as CSV: the job, every metric under its own key, the intervals of each score."""
    import csv
    import io

    keys = list(dict.fromkeys(key for row in listed for key in row.metrics))
    ends = [(name, end) for name in benchmarks(listed) for end in _ENDS]
    facts = ["job", "name", "model", "learning_rate", "num_train_epochs", "attempt"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*facts, *keys, *(f"bench/{name}/{end}" for name, end in ends)])
    for row in listed:
        values = [getattr(row, fact) for fact in facts] + [row.metrics.get(key) for key in keys]
        values += [getattr(row.scores.get(name), end, None) for name, end in ends]
        writer.writerow(["" if value is None else value for value in values])
    return out.getvalue()


def _row(job: Job, result: Result) -> ResultRow:
    spec = job.spec
    return ResultRow(
        job=job.id,
        name=spec.name,
        model=spec.model.name,
        learning_rate=spec.train.learning_rate if spec.train else None,
        num_train_epochs=spec.train.num_train_epochs if spec.train else None,
        attempt=job.attempt,
        scores=scores(result.metrics, result.protocol),
        metrics=result.metrics,
        kind=_kind(spec),
        loss_rise=result.train.loss_rise if result.train else None,
    )


def _partial_scores(job: Job) -> EvalReport | None:
    """The scores of a failed job's newest attempt, if it has any."""
    found = records.read(job.paths.attempt(job.attempt).partial_scores, EvalReport)
    return found if found is not None and found.metrics else None


def _kind(spec: JobSpec) -> str:
    if spec.train is not None:
        return "tuned"
    return "calibrated" if spec.name.startswith("calibrate-") else "base"


def _mark_best(listed: list[ResultRow]) -> list[ResultRow]:
    values: dict[tuple[str, str], list[float]] = {}
    for row in listed:
        for name, score in row.scores.items():
            values.setdefault((name, _rivals(score)), []).append(score.value)
    return [
        msgspec.structs.replace(
            row,
            scores={
                name: msgspec.structs.replace(
                    score, best=_is_best(score, values[name, _rivals(score)])
                )
                for name, score in row.scores.items()
            },
        )
        for row in listed
    ]


def _rivals(score: Score) -> str:
    """What scores have in common that are compared: the metric, or the most samples of a rule."""
    return score.metric if score.k_at_most is None else f"at most {score.k_at_most} samples"


def _is_best(score: Score, rivals: list[float]) -> bool:
    best = max(rivals) if score.higher_is_better else min(rivals)
    return score.value == best and min(rivals) < max(rivals)
