"""Pairs the evaluations of two jobs, benchmark by benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from jobspec.benchmarks import protocol
from jobspec.benchmarks.protocol import Differing
from jobspec.errors import BenchmarkError
from jobspec.monitoring import status
from jobspec.queue.job import Job
from jobspec.records import evaluation
from jobspec.results import comparison, table
from jobspec.results.difference import Difference
from jobspec.results.evaluations import evaluated_attempt
from jobspec.results.seeds import SeedDifference, difference_over_seeds, siblings


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark of two jobs.

    Attributes:
        differs: what was measured differently; then there is no `difference`, unless it is wanted
            anyway.
        over_seeds: of the jobs that differ from these two in the training seed only.
    """

    benchmark: str
    differs: list[Differing]
    difference: Difference | None
    over_seeds: SeedDifference | None = None


def evaluations(job: Job) -> dict[str, Path]:
    """The directory of each benchmark of a job. Raises BenchmarkError if it has none."""
    return evaluation.benchmark_dirs(evaluated_attempt(job).eval)


def in_common(a: dict[str, Path], b: dict[str, Path]) -> list[str]:
    """The benchmarks of both jobs; of a group of tasks with a score of its own, the group."""
    return [name for name in a if name in b and evaluation.read_plan(a[name]).group is None]


def compare_benchmark(name: str, a: Path, b: Path, *, anyway: bool = False) -> Compared:
    """Compare two evaluations of a benchmark.

    Args:
        a, b: the directories of the benchmark.
        anyway: also if they were measured differently.

    Raises:
        BenchmarkError: they have no question in common.
    """
    measured = [evaluation.read_plan(side).protocol for side in (a, b)]
    differs = protocol.differences(*measured)
    if differs and not anyway:
        return Compared(benchmark=name, differs=differs, difference=None)
    metric = protocol.value_of(measured[0], "metric")
    left, right = (evaluation.outcomes(evaluation.read_scores(side), metric) for side in (a, b))
    higher = measured[0].higher_is_better is not False
    difference = comparison.compare(left, right, higher_is_better=higher)
    if difference is None:
        what = "question" if metric is None else f"question with a value of `{metric}`"
        raise BenchmarkError(f"the jobs have no {what} of `{name}` in common", file=b)
    return Compared(benchmark=name, differs=differs, difference=difference)


def add_seeds(rows: Sequence[Compared], a: Job, b: Job, jobs: Sequence[Job]) -> list[Compared]:
    """Add the difference over training seeds, where each side has two or more."""
    sides = [[_scores(each) for each in siblings(job, jobs)] for job in (a, b)]
    made: list[Compared] = []
    for row in rows:
        values = [[s[row.benchmark] for s in side if row.benchmark in s] for side in sides]
        found = difference_over_seeds(*values)
        made.append(msgspec.structs.replace(row, over_seeds=found))
    return made


def _scores(job: Job) -> dict[str, float]:
    result = status.result(job)
    return {
        name: value
        for name, (_, value) in table.main_metrics({} if result is None else result.metrics).items()
    }


def differences_from(job: Job, other: Job) -> dict[str, Difference]:
    """`job` − `other` of each benchmark that was measured in the same way in both."""
    try:
        a, b = evaluations(other), evaluations(job)
    except BenchmarkError:
        return {}
    found: dict[str, Difference] = {}
    for name in in_common(a, b):
        try:
            row = compare_benchmark(name, a[name], b[name])
        except BenchmarkError:  # still running, or other questions
            continue
        if row.difference is not None:
            found[name] = row.difference
    return found
