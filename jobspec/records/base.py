"""What machines write for machines: states, reasons and the records beside the queue entries.

Records ignore fields they do not know and default the ones they miss, so that workers and command
lines of neighbouring versions read each other.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import msgspec

LAYOUT = 1


class State(StrEnum):
    """Which directory of `queue/` a job's entry is in."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Reason(StrEnum):
    """Why an attempt ended. Each has a budget of its own."""

    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    WALLTIME = "walltime"
    LOST = "lost"
    NODE = "node"
    OOM = "oom"
    DISK = "disk"
    FAILED = "failed"
    CORRUPT = "corrupt"
    NO_PROGRESS = "no_progress"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything a machine writes."""


class Format(Record, frozen=True, kw_only=True):
    """`ROOT/FORMAT`: what every program checks and obeys."""

    layout: int = LAYOUT
    heartbeat_s: float = 15.0
    lease_s: float = 150.0


class Enqueued(Record, frozen=True, kw_only=True):
    """`enqueue.json`: the facts of the enqueueing that are not the experiment's."""

    enqueued_at: str = ""
    priority: int = 50
    user: str = ""
    host: str = ""
    version: str = ""


class WorkerRecord(Record, frozen=True, kw_only=True):
    """`queue/workers/<worker>.json`: who a worker is and what it does; refreshed now and then.

    `busy_s`: seconds in which it held a job, since `started_at`.
    """

    worker: str
    host: str = ""
    pid: int = 0
    started_at: str = ""
    updated_at: str = ""
    gpus: int = 0
    gpu_name: str | None = None
    gpu_memory_gib: float | None = None
    slurm_cluster: str | None = None
    slurm_job: str | None = None
    slurm_restart_count: int = 0
    slurm_element: str | None = None
    ends_at: str | None = None
    job: str | None = None
    attempt: int | None = None
    phase: str | None = None
    note: str | None = None
    version: str = ""
    busy_s: float | None = None


class ClaimRecord(Record, frozen=True, kw_only=True):
    """`claim.json`: which process claimed this attempt (`token` is its own), where and when."""

    worker: str
    token: str = ""
    host: str = ""
    claimed_at: str = ""


class Hold(Record, frozen=True, kw_only=True):
    """`queue/hold`: while it exists nobody claims. Workers wait; they do not leave."""

    reason: str = ""
    by: str = ""
    at: str = ""


class Taken(Record, frozen=True, kw_only=True):
    """`taken.json`: the claim on this attempt was reaped or cancelled. Its rows end here."""

    at: str = ""


class Retry(Record, frozen=True, kw_only=True):
    """`retry.json`: a person retried the job after this attempt."""

    at: str = ""


class Quarantined(Record, frozen=True, kw_only=True):
    """`queue/quarantine/<host>.json`: a host set aside until `expires_at`."""

    host: str
    reason: str = ""
    by: str = ""
    at: str = ""
    expires_at: str = ""


class Progress(Record, frozen=True, kw_only=True):
    """`progress.json`: how far a phase has come. `done` of `total` `unit`s; rates are a second."""

    phase: str = ""
    done: float = 0
    total: float = 0
    unit: str = ""
    started_at: str = ""
    updated_at: str = ""
    eta_s: float | None = None
    metrics: dict[str, float | None] = {}


class PhaseError(Record, frozen=True, kw_only=True):
    """`error.json`: a phase's own account of why it gave up. `kind` is a Reason's value."""

    phase: str
    kind: Reason = Reason.FAILED
    message: str = ""
    hint: str | None = None
    step: int | None = None


class PhaseTime(Record, frozen=True, kw_only=True):
    """Seconds of wall time a phase took in this attempt; 0 where an earlier attempt's was kept."""

    phase: str
    wall_s: float = 0.0
    kept: bool = False


class End(Record, frozen=True, kw_only=True):
    """`end.json`: why an attempt ended. Missing means lost."""

    reason: Reason
    message: str = ""
    hint: str | None = None
    phase: str | None = None
    exit_code: int | None = None
    step: int | None = None
    worker: str = ""
    host: str = ""
    started_at: str = ""
    ended_at: str = ""
    wall_s: float = 0.0
    phases: tuple[PhaseTime, ...] = ()
    overhead_s: float = 0.0
    checkpoint: str | None = None
    unexplained: bool = False
    first_step_s: float | None = None


class Result(Record, frozen=True, kw_only=True):
    """`result.json`: what a succeeded job came to.

    `metrics` are keyed as in W&B: `bench/aime24/avg_at_32`.
    """

    job: str
    attempt: int
    metrics: dict[str, float | None] = {}
    train: dict[str, Any] = {}
    prepare: dict[str, Any] = {}
    protocol: dict[str, Any] = {}
    overhead_s: float = 0.0
    phases: tuple[PhaseTime, ...] = ()


R = TypeVar("R", bound=Record)


def encode(record: Record) -> bytes:
    """A record's bytes: one JSON object, indented, newline at the end."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def read(path: Path, kind: type[R]) -> R | None:
    """The record at `path`; None where it is missing or torn (an empty file is no record)."""
    try:
        return parse(path.read_bytes(), kind)
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse(data: bytes, kind: type[R]) -> R | None:
    """The record in these bytes; None where they are torn, as after a crash."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def utc_now() -> str:
    """UTC, ISO 8601 with microseconds: `2026-11-22T12:40:57.123456Z`."""
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
