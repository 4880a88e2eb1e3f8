"""Compares two ways of training over all their training seeds.

The samples of one model say nothing about what another training seed would have given. Where jobs
differ in `train.seed` only, their scores do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from jobspec.queue.job import Job
from jobspec.records.base import State
from jobspec.results import confidence, significance
from jobspec.spec.schema import JobSpec, TrackingSpec


class SeedDifference(msgspec.Struct, frozen=True, kw_only=True):
    """How much B's mean over training seeds differs from A's.

    Attributes:
        a_seeds, b_seeds: numbers of seeds.
        low, high: 95 % interval over training seeds.
        p_value: of Welch's t-test: how likely such a difference is by luck of the seeds alone.
        seeds_needed: seeds on each side that would most likely show a difference of this size; None
            if it is unknown.
    """

    a_seeds: int
    b_seeds: int
    a: float
    b: float
    mean: float
    low: float
    high: float
    p_value: float
    seeds_needed: int | None


def siblings(job: Job, jobs: Iterable[Job]) -> list[Job]:
    """The succeeded jobs that differ from `job` in the training seed only, itself included.

    Only one job counts for a seed.
    """
    wanted = _without_seed(job.spec)
    found: dict[int, Job] = {}
    for each in [job, *jobs]:
        train = each.spec.train
        same = train is not None and each.state is State.SUCCEEDED
        if train is not None and same and _without_seed(each.spec) == wanted:
            found.setdefault(train.seed, each)
    return list(found.values())


def difference_over_seeds(a: Sequence[float], b: Sequence[float]) -> SeedDifference | None:
    """B − A by Welch's t-test, which allows different spreads.

    Args:
        a, b: the score of each seed.

    Returns:
        None for fewer than two seeds on a side.

    Source: Welch 1947, Biometrika 34, 28-35.
    """
    errors = [confidence.stderr(side) for side in (a, b)]
    one, other = errors
    if one is None or other is None:
        return None
    means = [math.fsum(side) / len(side) for side in (a, b)]
    gap, error = means[1] - means[0], math.hypot(one, other)
    if error:
        parts = [(e**4) / (len(side) - 1) for e, side in zip((one, other), (a, b), strict=True)]
        freedom = error**4 / math.fsum(parts)
        p_value = confidence.t_tail(gap / error, freedom)
        half = confidence.t_quantile(freedom) * error
    else:
        p_value, half = (0.0 if gap else 1.0), 0.0
    return SeedDifference(
        a_seeds=len(a),
        b_seeds=len(b),
        a=means[0],
        b=means[1],
        mean=gap,
        low=gap - half,
        high=gap + half,
        p_value=p_value,
        seeds_needed=significance.needed(gap, error, max(len(a), len(b))),
    )


def _without_seed(spec: JobSpec) -> JobSpec:
    train = None if spec.train is None else msgspec.structs.replace(spec.train, seed=0)
    return msgspec.structs.replace(spec, train=train, name="", notes="", tracking=TrackingSpec())
