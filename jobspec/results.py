"""Scores of finished jobs: a row a job, the base model's beside those tuned from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from jobspec import report
from jobspec.record import Result, State

if TYPE_CHECKING:
    from jobspec.entries import Job

SCHEMA = 1
_KEY = re.compile(r"bench/(?P<benchmark>[^/]+)/(?P<metric>[^/]+)")
# What stands beside a score and is none itself.
_BESIDE = re.compile(
    r"stderr|sampling_stderr|.*_frac|mean_response_tokens|pass_at_\d+|maj_at_\d+|.*_stderr"
)


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark's score. `stderr` is over questions, `sampling_stderr` within them."""

    metric: str
    value: float
    stderr: float | None = None
    sampling_stderr: float | None = None
    truncated_frac: float | None = None
    best: bool = False


class ResultRow(msgspec.Struct, frozen=True, kw_only=True):
    """One job in `results --json`. `learning_rate` is null for a model scored as it is."""

    job: str
    name: str
    model: str
    learning_rate: float | None
    num_train_epochs: float | None
    attempt: int
    scores: dict[str, Score]
    metrics: dict[str, float | None]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """`results --json`, field by field."""

    schema: int = SCHEMA
    root: str
    results: list[ResultRow]


def rows(jobs: Iterable[Job]) -> list[ResultRow]:
    """The succeeded jobs' scores, by model, the base model's first, then by learning rate.

    The best score of a benchmark is marked, where there is another of the same metric to beat.
    """
    found = [(job, report.result(job)) for job in jobs if job.state is State.SUCCEEDED]
    made = [_row(job, result) for job, result in found if result is not None]
    made.sort(key=lambda row: (row.model, row.learning_rate or 0.0, row.name, row.job))
    return _mark_best(made)


def benchmarks(found: Sequence[ResultRow]) -> list[str]:
    """Every benchmark that some row has, in the order of their first mention."""
    return list(dict.fromkeys(name for row in found for name in row.scores))


def scores(metrics: dict[str, float | None]) -> dict[str, Score]:
    """The scores among a result's metrics, one a benchmark: its first that is no error or rate."""
    made: dict[str, Score] = {}
    for key, value in metrics.items():
        parts = _KEY.fullmatch(key)
        if parts is None or value is None or _BESIDE.fullmatch(parts["metric"]):
            continue
        name = parts["benchmark"]
        if name not in made:
            about = f"bench/{name}/"
            made[name] = Score(
                metric=parts["metric"],
                value=value,
                stderr=metrics.get(about + "stderr"),
                sampling_stderr=metrics.get(about + "sampling_stderr"),
                truncated_frac=metrics.get(about + "truncated_frac"),
            )
    return made


def to_csv(found: Sequence[ResultRow]) -> str:
    """A line a job: what it is, then every metric under its own key."""
    import csv
    import io

    keys = list(dict.fromkeys(key for row in found for key in row.metrics))
    facts = ["job", "name", "model", "learning_rate", "num_train_epochs", "attempt"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(facts + keys)
    for row in found:
        values = [getattr(row, fact) for fact in facts] + [row.metrics.get(key) for key in keys]
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
        scores=scores(result.metrics),
        metrics=result.metrics,
    )


def _mark_best(made: list[ResultRow]) -> list[ResultRow]:
    values: dict[tuple[str, str], list[float]] = {}
    for row in made:
        for name, score in row.scores.items():
            values.setdefault((name, score.metric), []).append(score.value)
    return [
        msgspec.structs.replace(
            row,
            scores={
                name: msgspec.structs.replace(
                    score, best=_is_best(score, values[name, score.metric])
                )
                for name, score in row.scores.items()
            },
        )
        for row in made
    ]


def _is_best(score: Score, rivals: list[float]) -> bool:
    return len(rivals) > 1 and score.value == max(rivals) > min(rivals)
