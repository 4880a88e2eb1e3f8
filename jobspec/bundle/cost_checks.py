"""What a bundle's run cost, computed from the bundle's files: to state it, and to verify it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from jobspec.bundle.about import AboutBundle
from jobspec.bundle.findings import BundleFinding
from jobspec.monitoring import cost as costs
from jobspec.monitoring.cost import Cost
from jobspec.records import base as records
from jobspec.records import metrics
from jobspec.records.attempt import End, Result
from jobspec.records.base import State
from jobspec.storage.layout import AttemptPaths, BundlePaths

_MOST_PHASES = 100  # of an attempt; a run has six
_CLOCK_S = 0.1  # the worker reads the clock for each of the two
_TOLERANCE = 1e-9  # relative: Python 3.12 adds up floats more exactly than 3.11


@dataclass(frozen=True)
class BundledRun:
    """The files of a bundle as a job's."""

    paths: BundlePaths
    attempt: int
    state: State

    def cost(self, co2_g_per_kwh: float | None) -> Cost:
        return costs.cost_with(self, co2_g_per_kwh)


def check_cost(paths: BundlePaths, about: AboutBundle) -> Iterator[BundleFinding]:
    """Whether the stated cost is that of the attempts, and their times fit together."""
    times = [each for attempt in metrics.attempts(paths) for each in _check_times(attempt)]
    yield from times
    stated = about.cost
    if stated is None:
        detail = "not stated: an older jobspec wrote the bundle"
        yield BundleFinding.unknown("cost", detail, BundlePaths.ABOUT)
        return
    if any(each.outcome == "differs" for each in times):
        yield BundleFinding.unknown("cost", "the times are wrong", BundlePaths.ABOUT)
        return
    found = BundledRun(paths, about.attempt, State(about.state)).cost(stated.co2_g_per_kwh)
    faults = list(_unequal(_values(stated), _values(found)))
    detail = f"{costs.spelled(found) or 'nothing'}, as computed from the attempts"
    yield BundleFinding.of("cost", faults, detail, BundlePaths.ABOUT)


def _check_times(attempt: AttemptPaths) -> Iterator[BundleFinding]:
    """Whether an attempt's phases take its time, and its result states the same ones."""
    end = records.read(attempt.end, End)
    if end is None or not end.phases:
        return
    file = attempt.end.relative_to(attempt.job_dir).as_posix()
    if len(end.phases) > _MOST_PHASES:
        yield BundleFinding.differs("times", f"{len(end.phases):,} phases", file)
        return
    sum_s = math.fsum([*(each.wall_s for each in end.phases), end.overhead_s])
    faults: list[str] = []
    if end.wall_s and not math.isclose(sum_s, end.wall_s, rel_tol=1e-3, abs_tol=_CLOCK_S):
        faults.append(f"`wall_s` is {end.wall_s!r}; its phases and `overhead_s` are {sum_s!r}")
    used = [each.energy for each in end.phases if each.energy is not None]
    joules = [value for each in used for value in (each.gpu_j, each.cpu_j) if value is not None]
    if any(value < 0 for value in (*joules, *(each.wall_s for each in end.phases))):
        faults.append("a phase has a negative time or energy")
    result = records.read(attempt.result, Result)
    if result is not None and result.phases and result.phases != end.phases:
        faults.append(f"its phases are not those of {attempt.result.name}")
    detail = f"attempt {attempt.number}: {len(end.phases)} phases take {end.wall_s:,.1f} s"
    yield BundleFinding.of("times", faults, detail, file)


def _values(cost: Cost) -> dict[str, float | str | None]:
    """Every value of a cost by its place."""
    found: dict[str, float | str | None] = {}
    waiting: list[tuple[str, Any]] = [("cost", msgspec.to_builtins(cost))]
    for place, value in waiting:
        if isinstance(value, dict):
            inner = cast("dict[str, Any]", value).items()
            waiting += [(f"{place}.{name}", each) for name, each in inner]
        elif isinstance(value, list):
            inner = enumerate(cast("list[Any]", value))
            waiting += [(f"{place}[{number}]", each) for number, each in inner]
        else:
            found[place] = value
    return found


def _unequal(
    stated: Mapping[str, float | str | None], found: Mapping[str, float | str | None]
) -> Iterator[str]:
    for place in dict.fromkeys((*found, *stated)):
        one, other = stated.get(place), found.get(place)
        known = place in stated and place in found
        if not known or not _same(one, other):
            name = place.encode("ascii", "backslashreplace").decode()
            yield f"`{name}` is stated as {_spell(one)}; the attempts give {_spell(other)}"


def _same(one: float | str | None, other: float | str | None) -> bool:
    if not isinstance(one, int | float) or not isinstance(other, int | float):
        return one == other
    return math.isclose(one, other, rel_tol=_TOLERANCE)


def _spell(value: float | str | None) -> str:
    return "not measured" if value is None else repr(value)
