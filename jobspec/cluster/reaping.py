"""Taking back at once what dead workers hold, where Slurm knows that they are dead.

Slurm may speed a death up, never prevent one: without its word the lease decides. Its word is a
terminal state of that very run: cluster, job and restart count. That a later run of the job exists
says less: the node of the first may have lost its controller alone, and its worker lives on. So
there the worker must have been silent for two beats as well. The fence holds in either case.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from jobspec.cluster.slurm import Run, Slurm

if TYPE_CHECKING:
    from jobspec.queue.queue import Queue
    from jobspec.queue.worker_registry import WorkerSeen
    from jobspec.records.worker import WorkerRecord

_SILENT_BEATS = 2


def reap(queue: Queue, slurm: Slurm, *, silent_only: bool = False) -> list[str]:
    """Take back the claims of workers whose run Slurm says has ended.

    Args:
        queue: its looks at the beats, by earlier calls of `queue.reap()`, say who holds what and
            is silent.
        slurm: asked once, and not at all where nobody is in question.
        silent_only: ask about workers that have missed two beats alone, which costs a living queue
            nothing.

    Returns:
        The jobs moved, as of `queue.reap`.

    Raises:
        OSError: the root doesn't answer.
    """
    return _look(queue, slurm, silent_only=silent_only)[0]


def watch(queue: Queue, slurm: Slurm) -> list[str]:
    """Like `reap`, for a process that has not looked before: stays for some beats if it must.

    Raises:
        OSError: the root doesn't answer.
    """
    queue.reap()
    reaped, doubtful = _look(queue, slurm, silent_only=False)
    ends = time.monotonic() + (_SILENT_BEATS + 1) * queue.format.heartbeat_s
    while doubtful and time.monotonic() < ends:
        time.sleep(queue.format.heartbeat_s / 2)
        reaped += queue.reap()
        more, doubtful = _look(queue, slurm, silent_only=False)
        reaped += more
    return reaped


def _look(queue: Queue, slurm: Slurm, *, silent_only: bool) -> tuple[list[str], bool]:
    """One look: the jobs moved, and whether somebody's death is likely but not sure."""
    if shutil.which("squeue") is None:
        return [], False
    silent_s = _SILENT_BEATS * queue.format.heartbeat_s
    holders = queue.silent_holders(silent_s if silent_only else 0.0)
    if not holders:
        return [], False
    asked: list[tuple[WorkerSeen, Run]] = []
    for seen in queue.workers():
        run = run_of(seen.record)
        if run is not None and seen.worker in holders:
            asked.append((seen, run))
    word = slurm.ended([run for _, run in asked])
    dead = [seen for seen, run in asked if _is_dead(seen, word.get(run), silent_s)]
    moved = [job for seen in dead for job in queue.reap(worker=seen.worker, now=True)]
    return moved, len(dead) < len(word)


def run_of(record: WorkerRecord) -> Run | None:
    """The run of a job that a worker is; None where it is none of Slurm's."""
    if record.slurm_cluster is None or record.slurm_job is None:
        return None
    return Run(record.slurm_cluster, record.slurm_job, record.slurm_restart_count)


def _is_dead(seen: WorkerSeen, ended: bool | None, silent_s: float) -> bool:
    """`ended`: True for a terminal state, False for a later run of the job, None for no word."""
    return ended is True or (ended is False and seen.silent_s >= silent_s)
