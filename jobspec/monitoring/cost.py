"""What a job cost: GPU-hours used and lost, energy, and what a token and a sample took of it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable

import msgspec

from jobspec.errors import JobspecError
from jobspec.monitoring import gpu_hours, reasons
from jobspec.monitoring.gpu_hours import OVERHEAD, PhaseUsage, RunFiles
from jobspec.records import base as records
from jobspec.records import phases
from jobspec.records.attempt import Result
from jobspec.records.base import UNSET
from jobspec.records.reports import EvalReport

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
        co2_g: grams; None without a factor.
        co2_g_per_kwh: the factor, by default of $JOBSPEC_CO2_G_PER_KWH.
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
    co2_g_per_kwh: float | None = None

    @property
    def lost_h(self) -> float:
        """GPU-hours that were lost, for whatever reason."""
        return sum(self.lost_gpu_h.values())

    @property
    def joules(self) -> float | None:
        """The energy that tokens and samples are related to: of the GPUs, or else of the CPUs."""
        return self.cpu_j if self.gpu_j is None else self.gpu_j

    @property
    def ran_s(self) -> float:
        """The seconds of the phases, without those between them."""
        return sum(part.wall_s for part in self.phases if part.phase != OVERHEAD)

    @property
    def measured_whole(self) -> bool:
        """Whether energy was measured for all the time that phases ran."""
        return self.measured_s >= 0.99 * self.ran_s


def factor_of_user() -> float | None:
    """Grams of CO2 for each kWh, if the user's environment has them.

    Raises:
        JobspecError: they are no number.
    """
    given = os.environ.get(CO2, "")
    if not given:
        return None
    try:
        factor = float(given)
    except ValueError:
        factor = -1.0
    if not 0 <= factor < float("inf"):
        raise JobspecError(
            f"${CO2} is `{given}`", hint="give your grid's grams of CO2 per kWh, such as 380"
        )
    return factor


def cost(job: RunFiles) -> Cost:
    """Sum up what a job has cost so far, with the user's factor for CO2.

    Raises:
        JobspecError: the factor for CO2 is no number.
    """
    return cost_with(job, factor_of_user())


def cost_with(job: RunFiles, co2_g_per_kwh: float | None) -> Cost:
    """Sum up what a job has cost so far."""
    usage = gpu_hours.phase_usage(job)
    lost: defaultdict[str, float] = defaultdict(float)
    for each in usage:
        if each.lost_s > 0 and each.gpus:
            lost[each.reason] += each.lost_s * each.gpus / 3600
    by_phase: defaultdict[str, list[PhaseUsage]] = defaultdict(list)
    for each in usage:
        by_phase[each.phase].append(each)
    parts = [phase_cost(name, mine) for name, mine in by_phase.items()]
    gpu_j, cpu_j = _total([part.gpu_j for part in parts]), _total([part.cpu_j for part in parts])
    joules = _total([gpu_j, cpu_j]) if co2_g_per_kwh is not None else None
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
        co2_g=None if joules is None else (co2_g_per_kwh or 0.0) * joules / JOULES_PER_KWH,
        phases=parts,
        co2_g_per_kwh=co2_g_per_kwh,
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


def _samples(job: RunFiles, result: Result | None) -> int:
    """The samples that were drawn of all models; 0 where a task does not say how many."""
    if result is None:
        return 0
    report = phases.EVAL.read(job.paths.attempt(job.attempt)) or EvalReport()
    models = len(report.checkpoints) if report.checkpoints is not UNSET else 1
    counts = [(each.questions, each.k) for each in result.protocol.values()]
    known = [n * k for n, k in counts if isinstance(n, int) and isinstance(k, int)]
    return models * sum(known) if len(known) == len(counts) else 0


def spelled(found: Cost) -> str:
    """`3.21 GPU-hours (0.4 lost: preempted), 1.9 kWh by GPUs, 0.31 J per trained token`.

    Empty for a job that has not run.
    """
    parts: list[str] = []
    if found.gpu_h:
        lost_h = "; ".join(lost(found))
        parts.append(f"{figure(found.gpu_h)} GPU-hours" + (f" ({lost_h})" if lost_h else ""))
    share = "" if found.measured_whole else f"{found.measured_s / found.ran_s:.0%}"
    partly = f" (measured for {share} of the time)" if share else ""
    for joules, what in ((found.gpu_j, "GPUs"), (found.cpu_j, "the node's CPUs")):
        if joules is not None:
            parts.append(f"{energy(joules)} by {what}{partly}")
    if found.ran_s and found.gpu_j is None and found.cpu_j is None:
        parts.append("energy not measured")
    for joules, what in ((found.j_per_token, "trained token"), (found.j_per_sample, "sample")):
        if joules is not None:
            parts.append(f"{figure(joules)} J per {what}")
    if found.co2_g is not None:
        parts.append(f"{figure(found.co2_g / 1000)} kg CO2")
    return ", ".join(parts)


def lost(found: Cost) -> list[str]:
    """`0.4 lost: preempted`, for each reason."""
    return [
        f"{figure(hours)} lost: {reasons.REASONS.get(why, why)}"
        for why, hours in found.lost_gpu_h.items()
    ]


def figure(value: float) -> str:
    """A number with three digits, or its whole part: `0.0123`, `12.3`, `12,345`."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def energy(joules: float | None) -> str:
    """`1.9 kWh` or `812 J`; empty if it was not measured."""
    if joules is None:
        return ""
    kwh = joules / JOULES_PER_KWH
    return f"{figure(kwh)} kWh" if kwh >= 0.01 else f"{joules:,.0f} J"
