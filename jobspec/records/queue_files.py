"""Files that describe the queue and its entries rather than an attempt or a worker."""

from __future__ import annotations

import msgspec

from jobspec.records.base import Record

LAYOUT = 1


class Format(Record, frozen=True, kw_only=True):
    """`ROOT/FORMAT`: the version of the layout and the timings that every program uses."""

    layout: int = LAYOUT
    heartbeat_s: float = 15.0
    lease_s: float = 150.0


class Enqueued(Record, frozen=True, kw_only=True):
    """`enqueue.json`: who enqueued a job, when, and with which priority. Not part of its spec."""

    enqueued_at: str = ""
    priority: int = 50
    user: str = ""
    host: str = ""
    version: str = ""


class Hold(Record, frozen=True, kw_only=True):
    """`queue/hold`: while it exists, workers claim nothing. They wait and do not exit."""

    reason: str = ""
    by: str = ""
    at: str = ""


class Quarantined(Record, frozen=True, kw_only=True):
    """`queue/quarantine/<host>.json`: workers on this host claim nothing until `expires_at`."""

    host: str
    reason: str = ""
    by: str = ""
    at: str = ""
    expires_at: str = ""


class Limits(Record, frozen=True, kw_only=True):
    """`queue/limits.json`: how many jobs of one user may run at once; null is no limit.

    Attributes:
        running: for users without an entry in `users`.
    """

    running: int | None = None
    users: dict[str, int | None] = msgspec.field(default_factory=dict[str, int | None])

    def of(self, user: str) -> int | None:
        return self.users.get(user, self.running)


class AttemptUsage(Record, frozen=True, kw_only=True):
    """What one ended attempt used: its user, its times in seconds since 1970, its GPUs."""

    user: str = ""
    began: float = 0.0
    ended: float = 0.0
    gpus: int = 0


class UsageCache(Record, frozen=True, kw_only=True):
    """`queue/usage.json`: attempts as `<job>.<attempt>`; those older than a week as names only."""

    recent: dict[str, AttemptUsage] = msgspec.field(default_factory=dict[str, AttemptUsage])
    old: tuple[str, ...] = ()


class NoticeStart(Record, frozen=True, kw_only=True):
    """`notify/<destination>/start.json`: the failures before its first use, never reported."""

    failed: tuple[str, ...] = ()


class Notice(Record, frozen=True, kw_only=True):
    """`notify/<destination>/<event>.json`: an event, published once it was reported.

    Attributes:
        since: when it was first seen.
        sent: False while it must last longer before it is reported.
        newest: of "all done": the time at which the newest job was enqueued.
        attempts: of "all done": the attempts of all jobs.
    """

    since: str = ""
    sent: bool = True
    newest: str = ""
    attempts: int = 0
