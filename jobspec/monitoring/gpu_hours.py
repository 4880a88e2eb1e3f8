"""GPU hours of a job: the time of each attempt's phases, and how much of it was lost.

Time is lost if no later work used its output: training after the checkpoint that the next attempt
resumed from, a phase that was started again, and all time of a job that ended without a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from jobspec.queue.fair_share import count_gpus
from jobspec.records import base as records
from jobspec.records import metrics, phases
from jobspec.records.attempt import AttemptEvent, End, Energy, Progress
from jobspec.records.base import Reason, State
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, CheckpointPaths, JobPaths

OVERHEAD = "overhead"  # time outside the phases: carrying over, starting, committing


class RunFiles(Protocol):
    """A job in a root, or its copy in a bundle."""

    @property
    def paths(self) -> JobPaths: ...
    @property
    def attempt(self) -> int: ...
    @property
    def state(self) -> State: ...


class PhaseUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The time of one phase in one attempt: `wall_s` on each of `gpus` GPUs (0: on the CPU).

    Attributes:
        reason: what ended the attempt; `lost` if its worker died, empty while it runs.
        energy: None if it was not measured.
    """

    attempt: int
    phase: str
    wall_s: float
    lost_s: float
    gpus: int
    reason: str = ""
    energy: Energy | None = None

    @property
    def gpu_h(self) -> float:
        return self.wall_s * self.gpus / 3600


def phase_usage(job: RunFiles) -> list[PhaseUsage]:
    """List the phases of all attempts of a job. Missing files count as no time.

    Args:
        job: in any state; the time of a running attempt counts up to its last sign of activity.
    """
    paths = metrics.attempts(job.paths)
    rows = {attempt.number: metrics.read_rows(attempt.metrics) for attempt in paths}
    all_lost = job.state in (State.FAILED, State.CANCELLED)
    resumed = _resumed_steps(rows)
    usage: list[PhaseUsage] = []
    for attempt in paths:
        is_running = job.state is State.RUNNING and attempt.number == job.attempt
        gpus = count_gpus(attempt)
        end = records.read(attempt.end, End)
        reason = "" if is_running else end.reason if end is not None else Reason.LOST.value
        for phase, wall_s, energy in _phases(attempt, end):
            mine = rows[attempt.number]
            later_step = resumed.get(attempt.number, 0.0)
            lost_s = 0.0 if is_running else _lost_s(attempt, phase, wall_s, mine, later_step)
            usage.append(
                PhaseUsage(
                    attempt=attempt.number,
                    phase=phase,
                    wall_s=wall_s,
                    lost_s=wall_s if all_lost else lost_s,
                    gpus=gpus,
                    reason=reason,
                    energy=energy,
                )
            )
    return usage


def _phases(attempt: AttemptPaths, end: End | None) -> Iterator[tuple[str, float, Energy | None]]:
    """The phases that ran, their seconds and energy, from end.json or else events and metrics."""
    if end is not None and (end.phases or end.overhead_s):
        for each in end.phases:
            if not each.kept and each.wall_s > 0:
                yield each.phase, each.wall_s, each.energy
        if end.overhead_s > 0:
            yield OVERHEAD, end.overhead_s, None
        return
    events = _events(attempt.events)
    last = max((_moment(time) for time in _last_times(attempt, events)), default=0.0)
    found: list[tuple[str, float, Energy | None]] = []
    ends: dict[str, float] = {}  # of each phase, the next after the event
    for event in reversed(events):
        phase = event.phase or ""
        if event.event == "end":
            ends[phase] = _moment(event.time)
        elif event.event == "start":
            found.append((phase, max(0.0, ends.get(phase, last) - _moment(event.time)), None))
    yield from reversed(found)


def _last_times(attempt: AttemptPaths, events: Sequence[AttemptEvent]) -> Iterator[str]:
    """The times of the last activity of an attempt without end.json."""
    yield from (event.time for event in events[-1:])
    progress = records.read(attempt.progress, Progress)
    if progress is not None:
        yield progress.updated_at
    yield from (str(row.get("time", "")) for row in metrics.read_rows(attempt.metrics)[-1:])


def _events(path: Path) -> list[AttemptEvent]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    return [event for line in lines if (event := records.parse(line, AttemptEvent)) is not None]


def _lost_s(
    attempt: AttemptPaths, phase: str, wall_s: float, rows: list[metrics.Row], resumed_at: float
) -> float:
    """The seconds of a phase whose output no later attempt used.

    Args:
        resumed_at: the highest step that a later attempt resumed from; 0 if none did.
    """
    info = phases.find(phase)
    keeps = info.keeps if info is not None else "nothing"
    if phase == OVERHEAD or keeps == "samples" or fs.exists(attempt.done(phase)):
        return 0.0
    if keeps == "nothing":
        return wall_s
    of_phase = [row for row in rows if row.get("phase") == phase]
    step = max([resumed_at, *_checkpoint_steps(attempt)])
    kept = [row for row in of_phase if _number(row.get("step")) <= step]
    if not step or not kept:
        return wall_s
    whole = _moment(str(of_phase[-1].get("time", ""))) - _moment(str(of_phase[0].get("time", "")))
    useful = _moment(str(kept[-1].get("time", ""))) - _moment(str(of_phase[0].get("time", "")))
    return wall_s * (1 - useful / whole) if whole > 0 else 0.0


def _resumed_steps(rows: dict[int, list[metrics.Row]]) -> dict[int, float]:
    """The highest step of each attempt that a later one resumed from, if one did."""
    steps: dict[int, float] = {}
    for number, later in rows.items():
        for row in later:
            resumed: Any = row.get("resumed_from") or {}
            attempt = resumed.get("attempt")
            if isinstance(attempt, int) and attempt < number:
                steps[attempt] = max(steps.get(attempt, 0.0), _number(resumed.get("step")))
    return steps


def _checkpoint_steps(attempt: AttemptPaths) -> Iterator[float]:
    """The steps of the checkpoints that are still in this attempt."""
    for name in fs.list_names(attempt.checkpoints):
        checkpoint = CheckpointPaths.of(attempt.checkpoints / name)
        if checkpoint is not None:
            yield float(checkpoint.step)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("inf")


def _moment(time: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; 0 if it can't be parsed."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0
