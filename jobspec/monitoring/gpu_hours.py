"""Where a job's time went: each attempt's phases, and how much of it came to nothing.

Time is lost where nothing was built on it: training beyond the state that the next attempt resumed
from, a phase that was begun anew, and all of a job that ended without a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from jobspec.records import base as records
from jobspec.records import metrics, phases
from jobspec.records.attempt import AttemptEvent, End, Progress
from jobspec.records.base import State
from jobspec.records.manifest import Manifest
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, CheckpointPaths

if TYPE_CHECKING:
    from jobspec.queue.entries import Job

OVERHEAD = "overhead"  # between the phases: taking over, starting, committing


class PhaseUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one phase of one attempt took; `wall_s` on each of `gpus` GPUs, 0 on the CPU."""

    attempt: int
    phase: str
    wall_s: float
    lost_s: float
    gpus: int

    @property
    def gpu_h(self) -> float:
        return self.wall_s * self.gpus / 3600


def phase_usage(job: Job) -> list[PhaseUsage]:
    """Everything a job has taken so far, attempt by attempt. Files that are missing count nothing.

    Args:
        job: in any state; what the running attempt has taken counts up to its last word.
    """
    paths = metrics.attempts(job.paths)
    rows = {attempt.number: metrics.read_rows(attempt.metrics) for attempt in paths}
    in_vain = job.state in (State.FAILED, State.CANCELLED)
    found: list[PhaseUsage] = []
    for attempt in paths:
        runs = job.state is State.RUNNING and attempt.number == job.attempt
        gpus = _gpus(attempt)
        for phase, wall_s in _phases(attempt):
            lost_s = 0.0 if runs else _lost_s(attempt, phase, wall_s, rows)
            found.append(
                PhaseUsage(
                    attempt=attempt.number,
                    phase=phase,
                    wall_s=wall_s,
                    lost_s=wall_s if in_vain else lost_s,
                    gpus=gpus,
                )
            )
    return found


def _gpus(attempt: AttemptPaths) -> int:
    found = records.read(attempt.manifest, Manifest)
    if found is None or found.device.kind == "cpu":
        return 0
    return found.device.count * (found.plan.nodes if found.plan is not None else 1)


def _phases(attempt: AttemptPaths) -> Iterator[tuple[str, float]]:
    """Each phase that ran and its seconds: by end.json, else by what was written while it ran."""
    end = records.read(attempt.end, End)
    if end is not None:
        for each in end.phases:
            if not each.kept and each.wall_s > 0:
                yield each.phase, each.wall_s
        if end.overhead_s > 0:
            yield OVERHEAD, end.overhead_s
        return
    events = _events(attempt.events)
    last = max((_moment(time) for time in _last_words(attempt, events)), default=0.0)
    for number, event in enumerate(events):
        if event.event == "start":
            ends = [e.time for e in events[number:] if (e.event, e.phase) == ("end", event.phase)]
            until = _moment(ends[0]) if ends else last
            yield event.phase or "", max(0.0, until - _moment(event.time))


def _last_words(attempt: AttemptPaths, events: Sequence[AttemptEvent]) -> Iterator[str]:
    """When an attempt without an end was last heard of."""
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
    attempt: AttemptPaths, phase: str, wall_s: float, rows: dict[int, list[metrics.Row]]
) -> float:
    """The seconds of a phase that no later attempt built on."""
    info = phases.find(phase)
    keeps = info.keeps if info is not None else "nothing"
    if phase == OVERHEAD or keeps == "samples" or fs.exists(attempt.done(phase)):
        return 0.0
    if keeps == "nothing":
        return wall_s
    mine = [row for row in rows[attempt.number] if row.get("phase") == phase]
    step = max([_resumed_at(attempt, rows), *_states(attempt)], default=0.0)
    kept = [row for row in mine if _number(row.get("step")) <= step]
    if not step or not kept:
        return wall_s
    whole = _moment(str(mine[-1].get("time", ""))) - _moment(str(mine[0].get("time", "")))
    useful = _moment(str(kept[-1].get("time", ""))) - _moment(str(mine[0].get("time", "")))
    return wall_s * (1 - useful / whole) if whole > 0 else 0.0


def _resumed_at(attempt: AttemptPaths, rows: dict[int, list[metrics.Row]]) -> float:
    """The furthest step of this attempt's that a later one resumed from; 0 where none did."""
    steps = [0.0]
    for number, later in rows.items():
        for row in later:
            resumed: Any = row.get("resumed_from") or {}
            if number > attempt.number and resumed.get("attempt") == attempt.number:
                steps.append(_number(resumed.get("step")))
    return max(steps)


def _states(attempt: AttemptPaths) -> Iterator[float]:
    """The steps of resume states that still wait here to be taken up."""
    for name in fs.list_names(attempt.checkpoints):
        checkpoint = CheckpointPaths.of(attempt.checkpoints / name)
        if checkpoint is not None:
            yield float(checkpoint.step)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("inf")


def _moment(time: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; 0 for what is none."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0
