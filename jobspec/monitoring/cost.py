"""What a job cost: GPU-hours used and lost, energy, and what a token and a sample took of it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from jobspec.errors import JobspecError
from jobspec.monitoring import gpu_hours, reasons
from jobspec.monitoring.gpu_hours import OVERHEAD, PhaseUsage
from jobspec.records import base as records
from jobspec.records import phases
from jobspec.records.attempt import Result
from jobspec.records.base import UNSET
from jobspec.records.reports import EvalReport

if TYPE_CHECKING:
    from jobspec.queue.job import Job

CO2 = "JOBSPEC_CO2_G_PER_KWH"
JOULES_PER_KWH = 3.6e6


class PhaseCost(msgspec.Struct, frozen=True, kw_only=True):
    """One phase over all attempts; see Cost."""

    phase: str
    wall_s: float
    gpu_h: float
    lost_gpu_h: float
    measured_s: float
    gpu_j: float | None
    cpu_j: float | None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a job cost over all of its attempts, those without a result included.

    Attributes:
        gpu_h: hours times GPUs; 0 on CPUs.
        lost_gpu_h: the part whose output no later work used, by what ended the attempt.
        measured_s: the seconds of `wall_s` for which energy was measured.
        gpu_j: joules of the job's GPUs; None if none were measured.
        cpu_j: joules of all processors of its node, other programs included; None likewise.
        j_per_token: joules of training for each trained token, by GPUs or else processors.
        j_per_sample: joules of the evaluation for each sample, likewise.
        co2_g: grams, from the factor in $JOBSPEC_CO2_G_PER_KWH; None without one.
    """

    wall_s: float
    gpu_h: float
    lost_gpu_h: dict[str, float]
    measured_s: float
    gpu_j: float | None
    cpu_j: float | None
    j_per_token: float | None
    j_per_sample: float | None
    co2_g: float | None
    phases: list[PhaseCost]


def cost(job: Job) -> Cost:
    """Sum up what a job has cost so far.

    Raises:
        JobspecError: the factor for CO2 is no number.
    """
    usage = gpu_hours.phase_usage(job)
    lost: defaultdict[str, float] = defaultdict(float)
    for each in usage:
        if each.lost_s > 0 and each.gpus:
            lost[each.reason] += each.lost_s * each.gpus / 3600
    parts = [
        phase_cost(name, [each for each in usage if each.phase == name])
        for name in dict.fromkeys(each.phase for each in usage)
    ]
    gpu_j, cpu_j = _total([part.gpu_j for part in parts]), _total([part.cpu_j for part in parts])
    result = records.read(job.paths.attempt(job.attempt).result, Result)
    return Cost(
        wall_s=sum(part.wall_s for part in parts),
        gpu_h=sum(part.gpu_h for part in parts),
        lost_gpu_h=dict(lost),
        measured_s=sum(part.measured_s for part in parts),
        gpu_j=gpu_j,
        cpu_j=cpu_j,
        j_per_token=_each(parts, _trained_tokens(result), phases.trains),
        j_per_sample=_each(parts, _samples(job, result), lambda name: name == phases.EVAL.name),
        co2_g=_co2_g(gpu_j, cpu_j),
        phases=parts,
    )


def phase_cost(name: str, mine: list[PhaseUsage]) -> PhaseCost:
    """Sum up one phase's usage in all attempts."""
    measured = [each for each in mine if each.energy is not None]
    found = [each.energy for each in mine if each.energy is not None]
    return PhaseCost(
        phase=name,
        wall_s=sum(each.wall_s for each in mine),
        gpu_h=sum(each.gpu_h for each in mine),
        lost_gpu_h=sum(each.lost_s * each.gpus for each in mine) / 3600,
        measured_s=sum(each.wall_s for each in measured),
        gpu_j=_total([each.gpu_j for each in found]),
        cpu_j=_total([each.cpu_j for each in found]),
    )


def _total(parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _each(parts: list[PhaseCost], count: int, chosen: Callable[[str], bool]) -> float | None:
    """Joules of the chosen phases for each of `count`; None unless all of them were measured."""
    mine = [part for part in parts if chosen(part.phase)]
    if not count or not mine or any(part.measured_s < part.wall_s for part in mine):
        return None
    joules = _total([part.cpu_j if part.gpu_j is None else part.gpu_j for part in mine])
    return None if joules is None else joules / count


def _trained_tokens(result: Result | None) -> int:
    return result.train.trained_tokens if result is not None and result.train else 0


def _samples(job: Job, result: Result | None) -> int:
    """The samples that were drawn of all models; 0 where a task does not say how many."""
    if result is None:
        return 0
    report = phases.EVAL.read(job.paths.attempt(job.attempt)) or EvalReport()
    models = len(report.checkpoints) if report.checkpoints is not UNSET else 1
    counts = [(each.questions, each.k) for each in result.protocol.values()]
    known = [n * k for n, k in counts if isinstance(n, int) and isinstance(k, int)]
    return models * sum(known) if len(known) == len(counts) else 0


def _co2_g(gpu_j: float | None, cpu_j: float | None) -> float | None:
    given = os.environ.get(CO2, "")
    joules = _total([gpu_j, cpu_j])
    if not given or joules is None:
        return None
    try:
        factor = float(given)
    except ValueError:
        factor = -1.0
    if not 0 <= factor < float("inf"):
        raise JobspecError(
            f"${CO2} is `{given}`", hint="give your grid's grams of CO2 per kWh, such as 380"
        )
    return factor * joules / JOULES_PER_KWH


def spelled(found: Cost) -> str:
    """`3.21 GPU-hours (0.4 lost: preempted), 1.9 kWh by GPUs, 0.31 J per trained token`.

    Energy is left out where none was measured; empty on CPUs without it.
    """
    parts: list[str] = []
    if found.gpu_h:
        lost = ", ".join(
            f"{hours:.3g} lost: {reasons.REASONS.get(why, why)}"
            for why, hours in found.lost_gpu_h.items()
        )
        parts.append(f"{found.gpu_h:.3g} GPU-hours" + (f" ({lost})" if lost else ""))
    ran_s = sum(part.wall_s for part in found.phases if part.phase != OVERHEAD)
    whole = found.measured_s >= 0.99 * ran_s
    partly = "" if whole else f" (measured for {found.measured_s / ran_s:.0%} of the time)"
    for joules, what in ((found.gpu_j, "GPUs"), (found.cpu_j, "the node's CPUs")):
        if joules is not None:
            parts.append(f"{energy(joules)} by {what}{partly}")
    for joules, what in ((found.j_per_token, "trained token"), (found.j_per_sample, "sample")):
        if joules is not None:
            parts.append(f"{joules:.3g} J per {what}")
    if found.co2_g is not None:
        parts.append(f"{found.co2_g / 1000:.3g} kg CO2")
    return ", ".join(parts)


def energy(joules: float | None) -> str:
    """`1.9 kWh` or `812 J`; empty if it was not measured."""
    if joules is None:
        return ""
    kwh = joules / JOULES_PER_KWH
    return f"{kwh:.3g} kWh" if kwh >= 0.01 else f"{joules:,.0f} J"
