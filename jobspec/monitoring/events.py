"""What `jobspec notify` reports: failed jobs, the end of all jobs, no workers, a full disk.

Each destination has a directory below `ROOT/notify/`, with one file per reported event. The file is
published after the destination has accepted the message. A notifier that is killed in between
reports the event again, so no event is lost, and only that one can arrive twice. Only the notifier
that holds the destination's lock may use this module.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from jobspec.errors import DiskFull
from jobspec.monitoring import reasons, workers
from jobspec.records import base as records
from jobspec.records.base import State
from jobspec.records.queue_files import Notice, NoticeStart
from jobspec.storage import fs
from jobspec.storage.layout import NoticePaths
from jobspec.storage.patience import patient

if TYPE_CHECKING:
    from jobspec.queue.job import Job
    from jobspec.queue.queue import Queue

_ALL_DONE, _NO_WORKER, _DISK = "all-done", "no-worker", "disk"
_MAX_LISTED = 10  # failed jobs that one message describes
_RECOVERED = 1.5  # the disk has recovered when this many times the limit is free


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One message to send.

    Attributes:
        kind: `failed`, `all-done`, `no-worker` or `disk`.
        notices: what to record once it was sent, by the event's name.
    """

    kind: str
    title: str
    text: str
    notices: dict[str, Notice]


class Watch:
    """The events of a queue that were not reported to one destination yet.

    Args:
        queue: opened for writing.
        paths: of the destination.
        free_percent: the disk is nearly full below this share of free space or inodes.
        grace_s: how long no worker may be alive before that is reported.
    """

    def __init__(
        self, queue: Queue, paths: NoticePaths, *, free_percent: float, grace_s: float
    ) -> None:
        self._queue = queue
        self._paths = paths
        self._free_percent = free_percent
        self._grace_s = grace_s
        self._unrecorded: dict[str, Notice] = {}
        fs.make_dir(paths.dir)
        if not fs.exists(paths.start):
            self._begin()
        start = records.read(paths.start, NoticeStart) or NoticeStart()
        names = [name.removesuffix(".json") for name in fs.list_names(paths.dir)]
        self._failed = {*start.failed, *names}
        episodes = {name: records.read(paths.notice(name), Notice) for name in _EPISODES}
        self._episodes = {name: notice for name, notice in episodes.items() if notice is not None}

    def due(self) -> list[Event]:
        """The events to report now. Reads names of entries, and records of what is new."""
        self._record_again()
        jobs = self._queue.jobs()
        unfinished = [job for job in jobs if job.state not in records.FINAL]
        found = [
            self._failures(jobs),
            self._all_done(jobs, unfinished),
            self._no_worker(unfinished),
            self._full_disk(),
        ]
        return [event for event in found if event is not None]

    def record(self, event: Event) -> None:
        """Record that an event was sent; if the disk is full, later."""
        for name, notice in event.notices.items():
            if name in _EPISODES:
                self._episodes[name] = notice
            else:
                self._failed.add(name)
        self._unrecorded |= event.notices
        self._record_again()

    def _begin(self) -> None:
        """Record what happened before: a first start does not report last month's failures."""
        jobs = self._queue.jobs()
        if not any(job.state not in records.FINAL for job in jobs):
            fs.publish(self._paths.notice(_ALL_DONE), records.encode(_count(jobs)))
        failed = tuple(_failure(job) for job in jobs if job.state is State.FAILED)
        fs.publish(self._paths.start, records.encode(NoticeStart(failed=failed)))

    def _record_again(self) -> None:
        files = {
            self._paths.notice(name).name: records.encode(notice)
            for name, notice in self._unrecorded.items()
        }
        try:
            if files:
                fs.publish_together(self._paths.dir, files)
        except DiskFull:
            return  # kept in memory, so this process does not report it again
        self._unrecorded.clear()

    def _failures(self, jobs: Sequence[Job]) -> Event | None:
        new = {_failure(job): job for job in jobs if job.state is State.FAILED}
        new = {name: job for name, job in new.items() if name not in self._failed}
        if not new:
            return None
        failed = list(new.values())
        title = f"job failed: {failed[0].id}" if len(failed) == 1 else f"{len(failed)} jobs failed"
        lines = [_describe(job) for job in failed[:_MAX_LISTED]]
        if len(failed) > _MAX_LISTED:
            lines.append(f"and {len(failed) - _MAX_LISTED} more: jobspec status --state failed")
        notices = {name: Notice(since=records.utc_now()) for name in new}
        return Event(kind="failed", title=title, text="\n".join(lines), notices=notices)

    def _all_done(self, jobs: Sequence[Job], unfinished: Sequence[Job]) -> Event | None:
        before = self._episodes.get(_ALL_DONE)
        if unfinished:
            return self._end_episode(_ALL_DONE)
        now = _count(jobs)
        if not jobs or (before and (now.newest, now.attempts) <= (before.newest, before.attempts)):
            return None
        ended = {state: sum(job.state is state for job in jobs) for state in records.FINAL}
        counts = ", ".join(f"{ended[state]} {state.value}" for state in State if ended.get(state))
        return Event(
            kind=_ALL_DONE, title="all jobs have ended", text=counts, notices={_ALL_DONE: now}
        )

    def _no_worker(self, unfinished: Sequence[Job]) -> Event | None:
        waiting = bool(unfinished) and self._queue.on_hold() is None
        if not waiting or any(row.alive for row in workers.rows(self._queue)):
            return self._end_episode(_NO_WORKER)
        before = self._episodes.get(_NO_WORKER)
        if before is None:
            before = Notice(since=records.utc_now(), sent=False)
            self._episodes[_NO_WORKER] = before
            self._unrecorded[_NO_WORKER] = before
            self._record_again()
        if before.sent or (workers.age_s(before.since) or 0.0) < self._grace_s:
            return None
        return Event(
            kind=_NO_WORKER,
            title=f"no worker is alive and {len(unfinished)} jobs wait",
            text="start some with: jobspec submit --array 0-3",
            notices={_NO_WORKER: Notice(since=before.since)},
        )

    def _full_disk(self) -> Event | None:
        found = patient(os.statvfs)(self._queue.paths.root)
        space = 100 * found.f_bavail / max(1, found.f_blocks)
        inodes = 100 * found.f_favail / found.f_files if found.f_files else 100.0
        free = min(space, inodes)
        if free >= _RECOVERED * self._free_percent:
            return self._end_episode(_DISK)
        if free >= self._free_percent or _DISK in self._episodes:
            return None
        left = found.f_bavail * found.f_frsize / 2**30
        what = f"{space:.1f} % of its space ({left:.1f} GiB), {inodes:.1f} % of its inodes"
        return Event(
            kind=_DISK,
            title="the disk is nearly full",
            text=f"free on the filesystem of the root: {what}; `jobspec gc` deletes what ended "
            "jobs no longer need",
            notices={_DISK: Notice(since=records.utc_now())},
        )

    def _end_episode(self, name: str) -> None:
        """A condition is over, so the next time it is reported again."""
        if self._episodes.pop(name, None) is not None:
            self._unrecorded.pop(name, None)
            fs.remove(self._paths.notice(name))


_EPISODES = (_ALL_DONE, _NO_WORKER, _DISK)


def _failure(job: Job) -> str:
    """The name of a failure: a job that is retried and fails again has failed twice."""
    return f"failed-{job.id}.{job.attempt}"


def _count(jobs: Sequence[Job]) -> Notice:
    return Notice(
        since=datetime.now(UTC).isoformat(),
        newest=max((job.enqueued_at for job in jobs), default=""),
        attempts=sum(job.attempt for job in jobs),
    )


def _describe(job: Job) -> str:
    why = reasons.REASONS.get(job.reason.value, "") if job.reason is not None else ""
    message = job.end.message if job.end is not None else ""
    user = f" ({job.user})" if job.user else ""
    return f"{job.id}{user}: {': '.join(part for part in (why, message) if part)}"
