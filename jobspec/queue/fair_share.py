"""The order among the users of one queue, and their limits of running jobs.

Within a priority, the user who used the fewest GPU-hours in the past week comes first, then the job
enqueued first. With one user that is the order of the names. Nothing is read while one user has
enqueued jobs and no limit is set; otherwise users and hours are read at most once a minute.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from jobspec.errors import DiskFull
from jobspec.queue.entries import Entry, list_state, parse, read_record, scan
from jobspec.records import base as records
from jobspec.records.attempt import ClaimRecord, End, Progress
from jobspec.records.base import State
from jobspec.records.manifest import Manifest
from jobspec.records.queue_files import AttemptUsage, Enqueued, Limits, UsageCache
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, RootPaths, parse_entry

_REFRESH_S = 60.0
_WEEK_S = 7 * 86400.0
_MAX_READ = 500  # users or attempts read at once, newest first; the next time reads on
_MAX_COMPARED = 200  # of the newest pending jobs, with one that waits
_WORTH_SHARING = 50  # attempts read since the cache was published


class FairShare:
    """Who has used how much, remembered between claims.

    Args:
        root: the root.
        clock: monotonic seconds.
        share: whether to publish what was read for other workers; readers may not write.
    """

    def __init__(
        self, root: RootPaths, clock: Callable[[], float] = time.monotonic, *, share: bool = True
    ) -> None:
        self._root = root
        self._clock = clock
        self._share = share
        self._refreshed_at = float("-inf")
        self._users: dict[str, str] = {}
        self._ended: dict[str, AttemptUsage] = {}
        self._old: set[str] = set()
        self.limits = Limits()
        self.gpu_hours: dict[str, float] = {}
        self.running: Counter[str] = Counter()

    @property
    def has_limits(self) -> bool:
        return self.limits.running is not None or bool(self.limits.users)

    def order(self, names: list[str]) -> list[str]:
        """Sort the names of pending entries, which are in claim order, fairly among users."""
        if self._clock() - self._refreshed_at >= _REFRESH_S:
            self._refreshed_at = self._clock()
            self.refresh()
        if self.has_limits:
            self._count_running()
        if not self.gpu_hours and not self.has_limits:
            return names
        self._learn(job for name in reversed(names) if (job := _job_of(name)) is not None)
        last = float("inf")
        hours = {name: self.gpu_hours.get(self._known(name), last) for name in names}
        free = [name for name in names if not self._has_reached_limit(self._known(name))]
        return sorted(free, key=lambda name: (name[:3], hours[name], name))

    def is_full(self, job: str) -> bool:
        """Whether the job's user has as many running jobs as the limit allows."""
        return self.has_limits and self._has_reached_limit(self.user(job))

    def keep(self, running: Entry) -> bool:
        """Whether an entry that was moved to `running/` may stay; puts it back if not.

        RACE: several workers may move jobs of one user at once. Each counts after its own move, so
        the last one sees all of them, and the limit holds; they may put back one too many.
        """
        if not self.has_limits:
            return True
        user = self.user(running.ticket.job)
        limit = self.limits.of(user)
        self._count_running()
        if limit is None or self.running[user] <= limit:
            return True
        pending = Entry(State.PENDING, running.ticket)
        fs.move_once(running.path(self._root), pending.path(self._root))
        return False

    def user(self, job: str) -> str:
        """Who enqueued a job; empty if that is not known."""
        if job not in self._users:
            enqueued = read_record(self._root.job(job).enqueue, Enqueued)
            self._users[job] = enqueued.user if enqueued is not None else ""
        return self._users[job]

    def refresh(self) -> None:
        """Read the limits, and each user's GPU-hours if there are several users."""
        self.limits = read_limits(self._root)
        self.gpu_hours = {}
        if fs.exists(self._root.several_users):
            self.gpu_hours = self._sum_gpu_hours(time.time())
        if self.has_limits:
            self._count_running()

    def _known(self, name: str) -> str:
        return self._users.get(_job_of(name) or "", "")

    def _learn(self, jobs: Iterable[str]) -> None:
        """Read the users of some unknown jobs, the newest first: the oldest are claimed anyway."""
        unknown = (job for job in jobs if job not in self._users)
        for _, job in zip(range(_MAX_READ), unknown, strict=False):
            hours = self.gpu_hours
            user = self.user(job)
            if hours:
                hours.setdefault(user, 0.0)

    def _count_running(self) -> None:
        entries = (parse(State.RUNNING, name) for name in list_state(self._root, State.RUNNING))
        jobs = {entry.ticket.job for entry in entries if entry is not None}
        self.running = Counter(self.user(job) for job in jobs)

    def _has_reached_limit(self, user: str) -> bool:
        limit = self.limits.of(user)
        return bool(user) and limit is not None and self.running[user] >= limit

    def _sum_gpu_hours(self, now: float) -> dict[str, float]:
        if not self._ended and not self._old:
            cache = read_record(self._root.usage, UsageCache) or UsageCache()
            self._ended, self._old = dict(cache.recent), set(cache.old)
        used: list[AttemptUsage] = []
        fresh = 0
        newest = sorted(scan(self._root).values(), key=lambda entry: entry.ticket.enqueued)
        for entry in reversed(newest):
            if entry.state is State.PENDING and entry.ticket.attempt == 1:
                continue
            paths = self._root.job(entry.ticket.job)
            is_final = entry.state in records.FINAL
            for number in range(1, entry.ticket.attempt + (entry.state is not State.PENDING)):
                key = f"{entry.ticket.job}.{number}"
                if number == entry.ticket.attempt and not is_final:
                    used.append(self._usage(entry.ticket.job, paths.attempt(number), now))
                elif fresh < _MAX_READ and key not in self._ended and key not in self._old:
                    self._ended[key] = self._usage(entry.ticket.job, paths.attempt(number), None)
                    fresh += 1
        self._forget_old(now)
        if fresh >= _WORTH_SHARING and self._share:
            self._publish()
        hours: dict[str, float] = {}
        for each in (*used, *self._ended.values()):
            seconds = max(0.0, each.ended - max(each.began, now - _WEEK_S))
            hours[each.user] = hours.get(each.user, 0.0) + seconds * each.gpus / 3600
        return hours

    def _usage(self, job: str, attempt: AttemptPaths, now: float | None) -> AttemptUsage:
        """The use of one attempt; `now` if it still runs."""
        gpus = count_gpus(attempt)
        claim = read_record(attempt.claim, ClaimRecord)
        began = _moment(claim.claimed_at if claim is not None else "")
        ended = now
        if ended is None:
            end = read_record(attempt.end, End)
            progress = None if end is not None else read_record(attempt.progress, Progress)
            last = end.ended_at if end is not None else progress.updated_at if progress else ""
            ended = _moment(last) or began
        return AttemptUsage(user=self.user(job), began=began or ended, ended=ended, gpus=gpus)

    def _forget_old(self, now: float) -> None:
        old = [key for key, each in self._ended.items() if each.ended < now - _WEEK_S]
        for key in old:
            del self._ended[key]
        self._old |= set(old)

    def _publish(self) -> None:
        cache = UsageCache(recent=self._ended, old=tuple(sorted(self._old)))
        try:
            fs.replace(self._root.usage, records.encode_line(cache))
        except (DiskFull, OSError):
            return  # a cache: other workers read the files themselves


def read_limits(root: RootPaths) -> Limits:
    """The limits of running jobs per user."""
    return read_record(root.limits, Limits) or Limits()


def write_limit(root: RootPaths, user: str | None, running: int | None) -> Limits:
    """Set the limit of one user, or of all users without one of their own; None removes it."""
    limits = read_limits(root)
    users = {name: limit for name, limit in limits.users.items() if name != user}
    if user is None:
        limits = Limits(running=running, users=users)
    elif running is None:
        limits = Limits(running=limits.running, users=users)
    else:
        limits = Limits(running=limits.running, users={**users, user: running})
    fs.publish(root.limits, records.encode(limits))
    return limits


def explain(share: FairShare, pending: Sequence[Entry], entry: Entry) -> str | None:
    """Why a pending entry waits although older ones do not; None if it is only its turn.

    Args:
        share: refreshed.
        pending: all pending entries, the newest last.
        entry: one of them.
    """
    user = share.user(entry.ticket.job)
    limit = share.limits.of(user)
    if limit is not None and share.running[user] >= limit:
        return f"waits: {user} has {share.running[user]} of {limit} jobs running"
    used = share.gpu_hours.get(user, 0.0)
    for other in pending[-_MAX_COMPARED:] if share.gpu_hours else ():
        if other.ticket.rank != entry.ticket.rank or other.order < entry.order:
            continue
        first = share.user(other.ticket.job)
        hours = share.gpu_hours.get(first, 0.0)
        if first != user and hours < used:
            usage = f"{user} used {used:.3g} GPU-hours this week, {first} {hours:.3g}"
            return f"behind {first}: {usage}"
    return None


def count_gpus(attempt: AttemptPaths) -> int:
    """The GPUs that an attempt used, on all its nodes."""
    manifest = read_record(attempt.manifest, Manifest)
    return manifest.gpus if manifest is not None else 0


def _job_of(name: str) -> str | None:
    parsed = parse_entry(name)
    return parsed[0].job if parsed is not None else None


def _moment(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; 0 if it can't be parsed."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
