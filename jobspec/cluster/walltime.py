"""Chooses the time limit of array elements: `jobspec submit --time auto`.

A short limit starts earlier, because it fits into the partition's gaps. A long one is interrupted
less often: after each limit the element waits in Slurm again, and its job resumes. The scheduler is
asked when an element of each candidate would start; the earliest expected end of the work wins.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobspec.errors import JobspecError
from jobspec.records import base as records
from jobspec.records.attempt import End
from jobspec.records.base import State

if TYPE_CHECKING:
    from jobspec.queue.job import Job
    from jobspec.queue.queue import Queue

_STARTUP_S = 600.0  # until training goes on, where no finished job has measured it
_SCORING_S = 1800.0  # what an evaluation needs to complete some of its chunks
_LONGEST_S = 86400.0  # the longest candidate where the site sets no limit
_STEPS_S = (3600.0, 2 * 3600.0, 4 * 3600.0, 8 * 3600.0, 16 * 3600.0)
_ROUND_S = 300.0
_MAX_FINISHED = 200  # finished jobs that are read, the newest


@dataclass(frozen=True)
class Work:
    """What waits in the queue, in seconds.

    Attributes:
        jobs: pending jobs; `estimated` of them resemble a finished job.
        longest_s, total_s: of the estimated ones; 0 if there are none.
        startup_s: from the start of an attempt until training goes on.
        save_s: the longest interval between two checkpoints.
    """

    jobs: int
    estimated: int
    longest_s: float
    total_s: float
    startup_s: float
    save_s: float


@dataclass(frozen=True)
class Candidate:
    """A time limit, when an element of it would start, and when the work would be done."""

    limit_s: float
    wait_s: float | None
    rounds: int = 0
    end_s: float = math.inf


@dataclass(frozen=True)
class Choice:
    """The chosen limit, in sbatch's notation, and why."""

    time: str
    lines: list[str] = field(default_factory=list[str])


def measure(queue: Queue) -> Work:
    """Estimate the waiting jobs by finished jobs of the same model that did the same phases."""
    jobs = queue.jobs()
    finished = [job for job in jobs if job.state is State.SUCCEEDED]
    finished = sorted(finished, key=lambda job: job.enqueued_at)[-_MAX_FINISHED:]
    took: dict[tuple[str, bool, bool], list[float]] = {}
    startups: list[float] = []
    for job in finished:
        ends = _ends(job, job.attempt)
        kind = _kind(job)
        if kind is not None and ends:
            took.setdefault(kind, []).append(sum(end.wall_s for end in ends))
        startups += [end.first_step_s for end in ends if end.first_step_s]
    waiting = [job for job in jobs if job.state is State.PENDING]
    left: list[float] = []
    for job in waiting:
        alike = took.get(_kind(job) or ("", False, False))
        if alike:
            done_s = sum(end.wall_s for end in _ends(job, job.attempt - 1))
            left.append(max(_ROUND_S, statistics.median(alike) - done_s))
    return Work(
        jobs=len(waiting),
        estimated=len(left),
        longest_s=max(left, default=0.0),
        total_s=sum(left),
        startup_s=max(startups, default=_STARTUP_S),
        save_s=max((_save_s(job) for job in waiting), default=_SCORING_S),
    )


def choose(
    work: Work,
    elements: int,
    *,
    signal_s: float,
    most_s: float | None,
    wait_s: Callable[[float], float | None],
) -> Choice:
    """Choose the limit with the earliest expected end of the work.

    Args:
        work: what waits.
        elements: array elements that will share it.
        signal_s: how long before the limit workers stop.
        most_s: the site's limit; None if it sets none.
        wait_s: asks the scheduler how long an element with this limit would wait; None if it
            refuses the limit or does not know.

    Raises:
        JobspecError: no candidate would start.
    """
    least_s = _round_up(signal_s + work.startup_s + work.save_s)
    longest_s = most_s or _LONGEST_S
    overhead_s = signal_s + work.startup_s
    each_s = max(work.longest_s, work.total_s / max(1, min(elements, work.jobs)))
    known = bool(work.estimated)
    needed_s = each_s if known else max(0.0, longest_s - overhead_s)
    limits = {least_s, longest_s, *_STEPS_S, *([_round_up(each_s + overhead_s)] if known else [])}
    allowed = sorted(limit for limit in limits if least_s <= limit <= longest_s) or [longest_s]
    found = [_expect(limit, wait_s(limit), needed_s, overhead_s) for limit in allowed]
    best = min(found, key=lambda each: (each.end_s, each.limit_s))
    if best.wait_s is None:
        raise JobspecError(
            "Slurm names no start for any time limit",
            hint="try `jobspec submit --dry-run`, and a fixed --time",
        )
    return Choice(sbatch_time(best.limit_s), list(_explain(work, needed_s, least_s, found, best)))


def _expect(limit_s: float, wait_s: float | None, needed_s: float, overhead_s: float) -> Candidate:
    if wait_s is None:
        return Candidate(limit_s, None)
    rounds = max(1, math.ceil(needed_s / max(1.0, limit_s - overhead_s)))
    # The wait before a later round is assumed to be that before the first one.
    return Candidate(limit_s, wait_s, rounds, rounds * (wait_s + overhead_s) + needed_s)


def _explain(
    work: Work, needed_s: float, least_s: float, found: Sequence[Candidate], best: Candidate
) -> list[str]:
    known = f"{work.estimated} of {work.jobs} waiting jobs resemble a finished one"
    lines = [
        f"{known}; an element has {_hours(needed_s)} of work",
        f"at least {sbatch_time(least_s)}: {work.startup_s / 60:.0f} min to start, "
        f"{work.save_s / 60:.0f} min to a checkpoint, and the time to stop",
    ]
    for each in found:
        mark = "->" if each is best else "  "
        if each.wait_s is None:
            lines.append(f"{mark} {sbatch_time(each.limit_s)}: Slurm names no start")
            continue
        lines.append(
            f"{mark} {sbatch_time(each.limit_s)}: starts in {_hours(each.wait_s)}, "
            f"{each.rounds} x, done in {_hours(each.end_s)}"
        )
    return lines


def sbatch_time(seconds: float) -> str:
    """Seconds as hours:minutes:seconds."""
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def _hours(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _round_up(seconds: float) -> float:
    return math.ceil(seconds / _ROUND_S) * _ROUND_S


def _ends(job: Job, attempts: int) -> list[End]:
    ends = (records.read(job.paths.attempt(n).end, End) for n in range(1, attempts + 1))
    return [end for end in ends if end is not None]


def _kind(job: Job) -> tuple[str, bool, bool] | None:
    try:
        return job.spec.model.name, job.spec.train is not None, job.spec.eval is not None
    except (JobspecError, OSError):
        return None


def _save_s(job: Job) -> float:
    try:
        train = job.spec.train
    except (JobspecError, OSError):
        return _SCORING_S
    return train.checkpoint_interval_s if train is not None else _SCORING_S
