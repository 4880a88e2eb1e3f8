"""Reap dead workers' claims at once where the batch scheduler knows that they are dead.

The scheduler can only make reaping faster: without its answer the lease decides. A terminal state
of the worker's own run (cluster, job and restart count) is enough. That the job is on a later run
is not: the first run's node may have lost contact with the controller while its worker lives on,
so that worker must also have missed two heartbeats. The claim's fence holds in either case.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from jobspec.cluster.scheduler import Scheduler, SchedulerRun
from jobspec.errors import JobspecError
from jobspec.estimates import memory_settings
from jobspec.records import base as records
from jobspec.records.attempt import End, Progress
from jobspec.records.base import Reason
from jobspec.records.manifest import Manifest
from jobspec.spec import parsing
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, JobPaths

if TYPE_CHECKING:
    from jobspec.queue.queue import Queue
    from jobspec.queue.worker_registry import WorkerSeen
    from jobspec.records.worker import WorkerRecord

_MISSED_HEARTBEATS = 2


def reap(queue: Queue, scheduler: Scheduler, *, silent_only: bool = False) -> list[str]:
    """Reap the claims of workers whose run has ended, as the scheduler says.

    Args:
        queue: earlier calls of its `reap` have observed the heartbeats, which say who holds a
            claim and who is silent.
        scheduler: asked once, and only if a worker is in question.
        silent_only: ask only about workers that missed two heartbeats. With this a healthy queue
            costs nothing.

    Returns:
        The jobs that were moved, as `Queue.reap` returns them.

    Raises:
        OSError: the shared directory does not answer.
    """
    return _reap_once(queue, scheduler, silent_only=silent_only)[0]


def watch(queue: Queue, scheduler: Scheduler) -> list[str]:
    """Like `reap`, for a process that has not observed heartbeats yet: waits for some if needed.

    Raises:
        OSError: the shared directory does not answer.
    """
    queue.reap()
    reaped, in_doubt = _reap_once(queue, scheduler, silent_only=False)
    deadline = time.monotonic() + (_MISSED_HEARTBEATS + 1) * queue.format.heartbeat_s
    while in_doubt and time.monotonic() < deadline:
        time.sleep(queue.format.heartbeat_s / 2)
        reaped += queue.reap()
        more, in_doubt = _reap_once(queue, scheduler, silent_only=False)
        reaped += more
    return reaped


def run_of(record: WorkerRecord) -> SchedulerRun | None:
    """The scheduler's run that a worker belongs to; None for a worker started by hand."""
    if record.slurm_cluster is None or record.slurm_job is None:
        return None
    return SchedulerRun(record.slurm_cluster, record.slurm_job, record.slurm_restart_count)


def _reap_once(queue: Queue, scheduler: Scheduler, *, silent_only: bool) -> tuple[list[str], bool]:
    """The jobs moved, and whether a worker is probably dead but not certainly."""
    if not scheduler.is_available:
        return [], False
    silent_s = _MISSED_HEARTBEATS * queue.format.heartbeat_s
    holders = queue.silent_holders(silent_s if silent_only else 0.0)
    if not holders:
        return [], False
    asked: list[tuple[WorkerSeen, SchedulerRun]] = []
    for seen in queue.workers():
        run = run_of(seen.record)
        if run is not None and seen.worker in holders:
            asked.append((seen, run))
    ended = scheduler.ended([run for _, run in asked])
    dead = [seen for seen, run in asked if _is_dead(seen, ended.get(run), silent_s)]
    for seen in dead:
        run = run_of(seen.record)
        if run is not None and ended.get(run) is True:
            _explain(queue, seen, scheduler.out_of_memory(run))
    moved = [job for seen in dead for job in queue.reap(worker=seen.worker, now=True)]
    return moved, len(dead) < len(ended)


def _is_dead(seen: WorkerSeen, ended: bool | None, silent_s: float) -> bool:
    """`ended` is True for a terminal state, False for a later run, None if nothing is known."""
    return ended is True or (ended is False and seen.silent_s >= silent_s)


def _explain(queue: Queue, seen: WorkerSeen, memory: str | None) -> None:
    """Write the end of a dead worker's attempt, if the scheduler ended it for want of memory.

    RACE: other processes may do the same at the same time, and write the same.
    """
    record = seen.record
    if memory is None or record.job is None or record.attempt is None or record.job != seen.job:
        return
    attempt = queue.paths.job(record.job).attempt(record.attempt)
    if not fs.exists(attempt.dir) or fs.exists(attempt.end):
        return
    progress = records.read(attempt.progress, Progress)
    phase = record.phase or (progress.phase if progress is not None else None)
    end = End(
        reason=Reason.OOM,
        message=f"Slurm ended the worker for want of memory: {memory}",
        hint=_settings_that_fit(attempt, phase),
        phase=phase,
        worker=seen.worker,
        host=record.host,
        ended_at=records.utc_now(),
    )
    fs.publish(attempt.end, records.encode(end))


def _settings_that_fit(attempt: AttemptPaths, phase: str | None) -> str | None:
    manifest = records.read(attempt.manifest, Manifest)
    on_gpu = manifest is not None and manifest.device.kind != "cpu"
    try:
        spec = parsing.load(JobPaths(attempt.job_dir).spec)
    except JobspecError:
        return None
    return memory_settings.for_host(spec, phase, on_gpu=on_gpu)
