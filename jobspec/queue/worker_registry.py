"""Who works: everybody that has files in `queue/workers/`."""

from __future__ import annotations

from dataclasses import dataclass

from jobspec.queue import heartbeat
from jobspec.queue.entries import read_record
from jobspec.queue.reaper import Reaper
from jobspec.records.worker import WorkerRecord
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths


@dataclass(frozen=True)
class WorkerSeen:
    """A worker as its files show it. `silent_s` is what this reader itself saw, else 0."""

    worker: str
    record: WorkerRecord
    job: str | None
    beating: bool
    silent_s: float
    draining: bool


def workers(root: RootPaths, reaper: Reaper) -> list[WorkerSeen]:
    """Everybody; of several beats under one name the latest counts."""
    names = fs.list_names(root.workers)
    every = [beat for name in names if (beat := heartbeat.parse_beat(name))]
    beats = {beat.worker: beat for beat in sorted(every, key=lambda beat: beat.counter)}
    recorded = {worker for name in names if (worker := heartbeat.parse_record(name))}
    return [
        WorkerSeen(
            worker=worker,
            record=read_record(root.worker(worker), WorkerRecord) or WorkerRecord(worker=worker),
            job=beats[worker].job if worker in beats else None,
            beating=worker in beats,
            silent_s=reaper.silent_s(worker),
            draining=f"{worker}.drain" in names,
        )
        for worker in sorted(recorded | beats.keys())
    ]
