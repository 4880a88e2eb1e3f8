"""What earlier attempts tell: where a job failed, which micro-batch fits, what a start costs."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from jobspec.records import base as records
from jobspec.records import phases
from jobspec.records.attempt import End
from jobspec.records.base import Reason
from jobspec.records.checkpoint import CheckpointManifest
from jobspec.records.manifest import Manifest
from jobspec.records.metrics import tail
from jobspec.storage.layout import AttemptPaths, JobPaths
from worker.checkpoints import directories, integrity

_STEPS_READ = 20
_TAIL_BYTES = 65536


@dataclass(frozen=True)
class AttemptHistory:
    """Facts from a job's earlier attempts.

    Attributes:
        failed_on: the host where the last attempt failed unexplained.
        micro: limit of rows per micro-batch after running out of memory; None for no limit.
        ran_out: whether training ran out of memory.
        state: the manifest of the newest checkpoint; None if there is none to resume from.
        useful_s: seconds that another attempt needs to make progress; None if not known.
    """

    failed_on: str | None = None
    micro: int | None = None
    ran_out: bool = False
    state: CheckpointManifest | None = None
    useful_s: float | None = None


def read_history(job: JobPaths, attempt: int) -> AttemptHistory:
    """Read the files of all attempts before `attempt`."""
    earlier = [job.attempt(number) for number in range(1, attempt)]
    if not earlier:
        return AttemptHistory()
    end = records.read(earlier[-1].end, End)
    too_large = [paths for paths in earlier if _ran_out(paths)]
    return AttemptHistory(
        failed_on=end.host if end is not None and end.unexplained else None,
        micro=_micro(too_large),
        ran_out=bool(too_large),
        state=_state(earlier),
        useful_s=_useful_s(earlier),
    )


def _ran_out(paths: AttemptPaths) -> bool:
    end = records.read(paths.end, End)
    return end is not None and end.reason is Reason.OOM and phases.trains(end.phase)


def _micro(too_large: list[AttemptPaths]) -> int | None:
    """Half of the smallest micro-batch of the attempts that ran out of memory."""
    manifests = [records.read(paths.manifest, Manifest) for paths in too_large]
    plans = [each.plan for each in manifests if each is not None and each.plan is not None]
    rows = [plan.per_device_train_batch_size for plan in plans]
    return max(1, min(rows) // 2) if rows else None


def _state(earlier: list[AttemptPaths]) -> CheckpointManifest | None:
    if any(paths.done(phases.TRAIN.name).exists() for paths in earlier):
        return None
    manifests = [
        manifest
        for paths in earlier
        for checkpoint in directories.list_checkpoints(paths)
        if (manifest := integrity.read_manifest(checkpoint)) is not None
    ]
    return max(manifests, key=lambda each: (each.step, each.converted is not None), default=None)


def _useful_s(earlier: list[AttemptPaths]) -> float | None:
    """Seconds from the claim to the first saved step; a save counts twice, for safety."""
    step_s = [s for paths in earlier if (s := step_s_of(paths.metrics)) is not None]
    if not step_s:
        return None
    saves = [
        manifest.save_s
        for paths in earlier
        for checkpoint in directories.list_checkpoints(paths)
        if (manifest := integrity.read_manifest(checkpoint)) is not None
    ]
    starts = [end.first_step_s for p in earlier if (end := records.read(p.end, End)) is not None]
    start_s = max((s for s in starts if s is not None), default=60.0)
    return start_s + statistics.median(step_s) + 2 * max(saves, default=30.0)


def stop_cost_s(attempt: AttemptPaths) -> float:
    """Seconds from a stop signal to a complete checkpoint: the rest of a step, and a save."""
    return directories.expected_save_s(attempt) + (step_s_of(attempt.metrics) or 0.0)


def step_s_of(metrics: Path) -> float | None:
    """The median duration of the last steps; None before the first step."""
    rows = list(tail(metrics, _TAIL_BYTES))[-_STEPS_READ:]
    seen = [step_s for row in rows if (step_s := row.get("step_s"))]
    return statistics.median(seen) if seen else None
