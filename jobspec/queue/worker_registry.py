"""Lists the workers that have files in `queue/workers/`."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from jobspec.queue import heartbeat
from jobspec.queue.entries import read_record
from jobspec.queue.reaper import Reaper
from jobspec.records.worker import WorkerRecord
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths


@dataclass(frozen=True)
class WorkerSeen:
    """A worker as its files show it.

    Attributes:
        silent_s: seconds without a heartbeat, as counted by this process; else 0.
    """

    worker: str
    record: WorkerRecord
    job: str | None
    has_heartbeat: bool
    silent_s: float
    draining: bool


def workers(root: RootPaths, reaper: Reaper) -> list[WorkerSeen]:
    """List all workers. If a worker has several heartbeats, the latest counts."""
    names = fs.list_names(root.workers)
    in_order = sorted(heartbeat.parse_heartbeats(names), key=lambda each: each.counter)
    heartbeats = {each.worker: each for each in in_order}
    recorded = {worker for name in names if (worker := heartbeat.parse_record(name))}
    return [
        WorkerSeen(
            worker=worker,
            record=read_record(root.worker(worker), WorkerRecord) or WorkerRecord(worker=worker),
            job=heartbeats[worker].job if worker in heartbeats else None,
            has_heartbeat=worker in heartbeats,
            silent_s=reaper.silent_s(worker),
            draining=f"{worker}.drain" in names,
        )
        for worker in sorted(recorded | heartbeats.keys())
    ]


def too_many(every: Iterable[WorkerSeen], barred: Set[str], host: str) -> bool:
    """Whether a quarantine would stop the workers of more than half of the hosts.

    Args:
        every: all workers. One on several nodes claims nothing while any of them is quarantined.
        barred: the quarantined hosts, with `host`.
        host: the host in question, which counts also if it has no worker.
    """
    nodes: dict[str, set[str]] = {}
    for seen in every:
        if seen.has_heartbeat:
            nodes.setdefault(seen.record.host, set()).update((seen.record.host, *seen.record.nodes))
    stopped = sum(1 for used in nodes.values() if used & barred)
    is_elsewhere = all(host not in used for used in nodes.values())
    return 2 * (stopped + is_elsewhere) > len(nodes)
