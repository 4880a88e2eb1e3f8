"""Files that describe the queue and its entries rather than an attempt or a worker."""

from __future__ import annotations

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
