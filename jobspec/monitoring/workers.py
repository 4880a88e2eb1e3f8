"""Who works, as one look can tell: rows for people and machines, and why nobody takes a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from jobspec.errors import JobspecError
from jobspec.records.base import State

if TYPE_CHECKING:
    from jobspec.queue.entries import Job
    from jobspec.queue.queue import Queue
    from jobspec.queue.worker_registry import WorkerSeen
    from jobspec.spec.schema import ResourcesSpec

_ASKED = 100  # pending jobs whose needs are compared with what the workers have
_STALE_S = 180.0  # a working worker writes its record every minute


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One worker in `status --json`. `age_s`: since it last wrote its record, by the two clocks.

    `state` is `busy`, `idle`, `draining` or `silent`; `busy_frac` the share of its life so far in
    which it held a job.
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


def rows(queue: Queue) -> list[WorkerRow]:
    """Everybody, live ones first."""
    found = [_row(seen, queue.format.lease_s) for seen in queue.workers()]
    return sorted(found, key=lambda row: (not row.alive, row.worker))


def why_nothing_runs(
    queue: Queue, jobs: Sequence[Job], workers: Sequence[WorkerRow], aside: Mapping[str, str]
) -> str | None:
    """Why jobs wait and none is claimed; None where nothing needs explaining.

    Args:
        jobs: all of them.
        workers: everybody, as `rows` tells.
        aside: the hosts in quarantine, and why.
    """
    pending = [job for job in jobs if job.state is State.PENDING]
    live = [worker for worker in workers if worker.alive]
    if not pending:
        return None
    held = queue.on_hold()
    if held is not None:
        return f"on hold{f': {held.reason}' if held.reason else ''} (`jobspec release` lifts it)"
    if not live:
        own = f"jobspec-worker --root {queue.paths.root}"
        return f"no worker alive; start some: jobspec submit --array 0-3, or here: {own}"
    if any(worker.job for worker in live) or any(job.state is State.RUNNING for job in jobs):
        return None
    return _why_nobody_claims(pending, live, aside)


def _why_nobody_claims(
    pending: Sequence[Job], live: Sequence[WorkerRow], aside: Mapping[str, str]
) -> str | None:
    """Why the first of the pending jobs is left by live workers that all idle."""
    if all(worker.state == "draining" for worker in live):
        return "every live worker is draining, and claims nothing more; start another"
    if all(worker.host in aside for worker in live):
        some = "; ".join(f"{host}: {aside[host]}" for host in sorted({w.host for w in live})[:3])
        return f"every live worker's host is quarantined ({some})"
    unmet = [unmet_need(job, live) for job in pending[:_ASKED]]
    if all(unmet):
        return f"the next job {unmet[0]}"
    notes = sorted({worker.note for worker in live if worker.note})
    unwell = all(worker.note for worker in live)
    return f"every live worker says: {'; '.join(notes[:3])}" if unwell else None


def unmet_need(job: Job, live: Sequence[WorkerRow]) -> str | None:
    """What a pending job waits for that no live worker has: `waits for 4 GPUs, workers have 2`."""
    try:
        wanted = job.spec.resources
    except (JobspecError, OSError):
        return None
    if not live or any(_has(worker, wanted) for worker in live):
        return None
    most = max(worker.gpus for worker in live)  # 0: it works on the CPU, with any number
    if wanted.gpus is not None and wanted.gpus > most:
        same = all(worker.gpus == most for worker in live)
        return f"waits for {wanted.gpus} GPUs, workers have {'' if same else 'at most '}{most}"
    many = [worker for worker in live if wanted.gpus is None or worker.gpus >= wanted.gpus]
    memory = max((worker.gpu_memory_gib or 0.0 for worker in many), default=0.0)
    return f"needs {wanted.gpu_memory_gib:g} GiB a GPU, workers' have {memory:g}"


def _has(worker: WorkerRow, wanted: ResourcesSpec) -> bool:
    enough = wanted.gpus is None or worker.gpus >= wanted.gpus or worker.gpus == 0
    memory = worker.gpu_memory_gib or 0.0
    return enough and (wanted.gpu_memory_gib is None or memory >= wanted.gpu_memory_gib)


def age_s(then: str | None, now: datetime | None = None) -> float | None:
    """Seconds since an ISO 8601 time; None for what is no time."""
    try:
        moment = datetime.fromisoformat(then or "")
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return ((now or datetime.now(UTC)) - moment).total_seconds()


def _row(seen: WorkerSeen, lease_s: float) -> WorkerRow:
    """A worker as one look can tell: a beat can be old, so its record must be young as well.

    Only `reap`, which looks for a whole lease, judges anybody dead; this is for people to read.
    """
    facts, age = seen.record, age_s(seen.record.updated_at)
    fresh = age is None or age < max(_STALE_S, lease_s)
    alive = seen.beating and fresh and seen.silent_s < lease_s
    working = "busy" if seen.job else "idle"
    return WorkerRow(
        worker=seen.worker,
        host=facts.host,
        alive=alive,
        age_s=age,
        job=seen.job,
        gpus=facts.gpus,
        state="silent" if not alive else "draining" if seen.draining else working,
        phase=facts.phase if seen.job else None,
        slurm_cluster=facts.slurm_cluster,
        slurm_job=facts.slurm_element or facts.slurm_job,
        busy_frac=_busy_frac(seen),
        gpu_name=facts.gpu_name,
        gpu_memory_gib=facts.gpu_memory_gib,
        note=facts.note,
    )


def _busy_frac(seen: WorkerSeen) -> float | None:
    born, wrote = age_s(seen.record.started_at), age_s(seen.record.updated_at)
    if seen.record.busy_s is None or born is None or wrote is None or born <= wrote:
        return None
    return min(1.0, seen.record.busy_s / (born - wrote))
