"""Runs with their scores, one row per job; a base model is listed with its fine-tuned models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from jobspec.errors import JobspecError
from jobspec.monitoring import cost as costs
from jobspec.monitoring import reasons, status
from jobspec.monitoring.cost import Cost
from jobspec.records import base as records
from jobspec.records.attempt import Progress, Result
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
        phase, progress: of a running job.
        why: why a job failed.
        loss, eval_loss: the last training loss, and held-out loss; of a running job, so far.
        groups: of the spec; `settings`: those that differ from their defaults, by dotted name. A
            job whose spec is damaged has none.
        cost: of all attempts, if it was asked for.
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
    state: str = State.SUCCEEDED.value
    phase: str | None = None
    progress: float | None = None
    why: str = ""
    loss: float | None = None
    eval_loss: float | None = None
    groups: list[str] = msgspec.field(default_factory=list[str])
    settings: dict[str, bool | int | float | str | None] = msgspec.field(
        default_factory=dict[str, bool | int | float | str | None]
    )
    cost: Cost | None = None


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `results --json`.

    Attributes:
        without_results: the other runs: running, failed, cancelled, or back in the queue.
        differing: the settings on which the runs disagree.
    """

    schema: int = SCHEMA
    root: str
    results: list[ResultRow]
    without_results: list[ResultRow] = msgspec.field(default_factory=list["ResultRow"])
    differing: list[str] = msgspec.field(default_factory=list[str])


def results(root: str, listed: Sequence[ResultRow]) -> Results:
    """The output of `results --json` for these rows."""
    from jobspec.results import settings  # here and below, because `status` does not need it

    return Results(
        root=root,
        results=[row for row in listed if has_result(row)],
        without_results=[row for row in listed if not has_result(row)],
        differing=settings.differing(listed),
    )


def has_result(row: ResultRow) -> bool:
    """Whether the job has succeeded, or failed with some scores."""
    return row.state == State.SUCCEEDED or bool(row.scores)


def rows(jobs: Iterable[Job]) -> list[ResultRow]:
    """List the scores of finished jobs by model (base model first), then by learning rate.

    A job that failed is listed if some of its benchmarks have a score. The best score of a
    benchmark is marked if another job has a worse one with the same metric.
    """
    return _in_order([row for job in jobs if (row := _finished(job)) is not None])


def all_rows(jobs: Iterable[Job], *, cost: bool = False) -> list[ResultRow]:
    """List all jobs as `rows` does; one without a result has its state and its losses so far.

    Args:
        cost: add what each job cost, which takes reading the metrics of all attempts.
    """
    found: list[ResultRow] = []
    for job in jobs:
        row = _finished(job) or _row(job, None)
        found.append(msgspec.structs.replace(row, cost=costs.cost(job)) if cost else row)
    return _in_order(found)


def was_started(job: Job) -> bool:
    """Whether a worker has claimed a job at least once."""
    return job.state is not State.PENDING or job.attempt > 1


def _finished(job: Job) -> ResultRow | None:
    """The row of a job that has a result, or failed with some scores; None for other jobs."""
    if job.state is State.SUCCEEDED and (result := status.result(job)) is not None:
        return _row(job, result)
    if job.state is State.FAILED and (partial := _partial_scores(job)) is not None:
        result = Result(
            job=job.id, attempt=job.attempt, metrics=partial.metrics, protocol=partial.protocol
        )
        return msgspec.structs.replace(_row(job, result), failed=partial.failed or {})
    return None


def _in_order(listed: list[ResultRow]) -> list[ResultRow]:
    listed.sort(key=lambda row: (row.model, row.learning_rate or 0.0, row.name, row.job))
    return _mark_best(listed)


def benchmarks(listed: Sequence[ResultRow]) -> list[str]:
    """List the benchmarks of all rows, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in listed for name in row.scores))


def short(benchmark: str) -> str:
    """A benchmark's short name, for narrow columns."""
    return benchmark.removeprefix("minerva_")


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


def _row(job: Job, result: Result | None) -> ResultRow:
    from jobspec.monitoring import losses
    from jobspec.results import settings

    spec, finished = _spec(job), result if job.state is State.SUCCEEDED else None
    train = spec.train if spec is not None else None
    progress = _progress(job)
    trained = losses.last(job, finished)
    return ResultRow(
        job=job.id,
        name=spec.name if spec is not None else job.id.rpartition("-")[0],
        model=spec.model.name if spec is not None else "",
        learning_rate=train.learning_rate if train else None,
        num_train_epochs=train.num_train_epochs if train else None,
        attempt=job.attempt,
        scores=scores(result.metrics, result.protocol) if result is not None else {},
        metrics=result.metrics if result is not None else {},
        kind=_kind(spec),
        loss_rise=finished.train.loss_rise if finished and finished.train else None,
        state=job.state.value,
        phase=progress.phase or None,
        progress=progress.fraction,
        why=_why(job),
        loss=trained.loss,
        eval_loss=trained.eval_loss,
        groups=settings.groups(spec) if spec is not None else [],
        settings=settings.changed(spec) if spec is not None else {},
    )


def _spec(job: Job) -> JobSpec | None:
    """The spec of a job; None if it is damaged, which must not hide the other jobs."""
    try:
        return job.spec
    except (JobspecError, OSError):
        return None


def _progress(job: Job) -> Progress:
    path = job.paths.attempt(job.attempt).progress
    found = records.read(path, Progress) if job.state is State.RUNNING else None
    return found or Progress()


def _why(job: Job) -> str:
    """Why a job failed, in one line."""
    if job.state is not State.FAILED:
        return ""
    why = reasons.why(job.reason.value) if job.reason is not None else ""
    message = job.end.message if job.end is not None else ""
    return f"{why}: {message}" if message and message != why else why


def _partial_scores(job: Job) -> EvalReport | None:
    """The scores of a failed job's newest attempt, if it has any."""
    found = records.read(job.paths.attempt(job.attempt).partial_scores, EvalReport)
    return found if found is not None and found.metrics else None


def _kind(spec: JobSpec | None) -> str:
    if spec is None or spec.train is not None:
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
