"""The workers as `status` shows them, and why no worker claims a pending job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from jobspec.errors import JobspecError
from jobspec.records.base import State
from jobspec.storage import mounts

if TYPE_CHECKING:
    from jobspec.queue.job import Job
    from jobspec.queue.queue import Queue
    from jobspec.queue.worker_registry import WorkerSeen
    from jobspec.spec.schema import ResourcesSpec

_MAX_COMPARED = 100  # pending jobs whose needs are compared with the workers
_STALE_S = 180.0  # a worker writes its record every minute


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One worker in `status --json`.

    Attributes:
        age_s: seconds since it wrote its record, by its clock and ours.
        state: `busy`, `idle`, `draining` or `silent`.
        busy_frac: the fraction of its lifetime during which it held a job.
        helps: the job of another worker whose samples it generates while it has none.
    """

    worker: str
    host: str = ""
    alive: bool = False
    age_s: float | None = None
    job: str | None = None
    gpus: int = 0
    state: str = "silent"
    phase: str | None = None
    slurm_cluster: str | None = None
    slurm_job: str | None = None
    busy_frac: float | None = None
    gpu_name: str | None = None
    gpu_memory_gib: float | None = None
    note: str | None = None
    helps: str | None = None


def rows(queue: Queue) -> list[WorkerRow]:
    """List all workers, live ones first."""
    every = [_row(seen, queue.format.lease_s) for seen in queue.workers()]
    return sorted(every, key=lambda row: (not row.alive, row.worker))


def why_nothing_runs(
    queue: Queue, jobs: Sequence[Job], workers: Sequence[WorkerRow], quarantined: Mapping[str, str]
) -> str | None:
    """Explain why pending jobs are not claimed; None if that needs no explanation.

    Args:
        jobs: all jobs.
        workers: all workers, from `rows`.
        quarantined: the quarantined hosts, each with the reason.
    """
    pending = [job for job in jobs if job.state is State.PENDING]
    live = [worker for worker in workers if worker.alive]
    if not pending:
        return None
    held = queue.on_hold()
    if held is not None:
        return f"on hold{f': {held.reason}' if held.reason else ''} (`jobspec release` lifts it)"
    unwritable = mounts.why_unwritable(queue.paths.root)
    if unwritable is not None:
        return f"the root can't be written, {unwritable}; workers go on by themselves when it can"
    if not live:
        own = f"jobspec-worker --root {queue.paths.root}"
        return f"no worker is alive; start some with jobspec submit --array 0-3, or one here: {own}"
    if any(worker.job for worker in live) or any(job.state is State.RUNNING for job in jobs):
        return None
    return _why_nobody_claims(pending, live, quarantined)


def _why_nobody_claims(
    pending: Sequence[Job], live: Sequence[WorkerRow], quarantined: Mapping[str, str]
) -> str | None:
    """Explain why live workers that are all idle do not claim the first pending jobs."""
    if all(worker.state == "draining" for worker in live):
        return "every live worker is draining and claims no more jobs; start another"
    if all(worker.host in quarantined for worker in live):
        examples = "; ".join(
            f"{host}: {quarantined[host]}" for host in sorted({w.host for w in live})[:3]
        )
        return f"every live worker's host is quarantined ({examples})"
    unmet = [unmet_need(job, live) for job in pending[:_MAX_COMPARED]]
    if all(unmet):
        return f"the next job {unmet[0]}"
    notes = sorted({worker.note for worker in live if worker.note})
    unwell = all(worker.note for worker in live)
    return f"every live worker says: {'; '.join(notes[:3])}" if unwell else None


def unmet_need(job: Job, live: Sequence[WorkerRow]) -> str | None:
    """What a pending job needs that no live worker has: `waits for 4 GPUs, workers have 2`."""
    try:
        wanted = job.spec.resources
    except (JobspecError, OSError):
        return None
    if not live or any(_has(worker, wanted) for worker in live):
        return None
    most = max(worker.gpus for worker in live)  # 0: the worker uses the CPU, which fits any number
    if wanted.gpus is not None and wanted.gpus > most:
        same = all(worker.gpus == most for worker in live)
        return f"waits for {wanted.gpus} GPUs, workers have {'' if same else 'at most '}{most}"
    many = [worker for worker in live if wanted.gpus is None or worker.gpus >= wanted.gpus]
    memory = max((worker.gpu_memory_gib or 0.0 for worker in many), default=0.0)
    return f"needs {wanted.gpu_memory_gib:g} GiB per GPU, workers have {memory:g}"


def _has(worker: WorkerRow, wanted: ResourcesSpec) -> bool:
    enough = wanted.gpus is None or worker.gpus >= wanted.gpus or worker.gpus == 0
    memory = worker.gpu_memory_gib or 0.0
    return enough and (wanted.gpu_memory_gib is None or memory >= wanted.gpu_memory_gib)


def age_s(then: str | None, now: datetime | None = None) -> float | None:
    """Seconds since an ISO 8601 time; None if it can't be parsed."""
    try:
        moment = datetime.fromisoformat(then or "")
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return ((now or datetime.now(UTC)) - moment).total_seconds()


def _row(seen: WorkerSeen, lease_s: float) -> WorkerRow:
    """Describe a worker after a single read. Its heartbeat may be old, so its record has to be new.

    This is for display only. Only `reap`, which watches for a whole lease, treats a worker as dead.
    """
    record, age = seen.record, age_s(seen.record.updated_at)
    fresh = age is None or age < max(_STALE_S, lease_s)
    alive = seen.has_heartbeat and fresh and seen.silent_s < lease_s
    working = "busy" if seen.job else "idle"
    return WorkerRow(
        worker=seen.worker,
        host=record.host,
        alive=alive,
        age_s=age,
        job=seen.job,
        gpus=record.gpus,
        state="silent" if not alive else "draining" if seen.draining else working,
        phase=record.phase if seen.job else None,
        slurm_cluster=record.slurm_cluster,
        slurm_job=record.slurm_element or record.slurm_job,
        busy_frac=_busy_frac(seen),
        gpu_name=record.gpu_name,
        gpu_memory_gib=record.gpu_memory_gib,
        note=record.note,
        helps=record.helps if alive and not seen.job else None,
    )


def _busy_frac(seen: WorkerSeen) -> float | None:
    since_start_s, age = age_s(seen.record.started_at), age_s(seen.record.updated_at)
    if seen.record.busy_s is None or since_start_s is None or age is None or since_start_s <= age:
        return None
    return min(1.0, seen.record.busy_s / (since_start_s - age))
