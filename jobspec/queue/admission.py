"""Keeps workers from claiming: all of them (`hold`), a host (`quarantine`), one (`drain`)."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta

from jobspec.errors import DiskFull, JobspecError
from jobspec.queue.entries import read_bytes, read_record
from jobspec.records import base as records
from jobspec.records.queue_files import Hold, Quarantined
from jobspec.storage import fs
from jobspec.storage.layout import JOB_PATTERN, WORKER_PATTERN, RootPaths

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"


def hold(root: RootPaths, reason: str, by: str) -> None:
    """Stop all claims until `release`. On a full disk the hold works, but its reason is lost."""
    fs.touch(root.hold)
    with contextlib.suppress(DiskFull):
        fs.publish(root.hold, records.encode(Hold(reason=reason, by=by, at=records.utc_now())))


def release(root: RootPaths) -> None:
    """End a hold."""
    fs.remove(root.hold)


def on_hold(root: RootPaths) -> Hold | None:
    """The hold with its reason; None if there is none."""
    if not fs.exists(root.hold):
        return None
    return read_record(root.hold, Hold) or Hold()


def quarantine(root: RootPaths, host: str, *, reason: str, by: str, ttl_s: float) -> None:
    """Stop claims by workers on this host for `ttl_s` seconds."""
    now = datetime.now(UTC)
    mark = Quarantined(
        host=host,
        reason=reason,
        by=by,
        at=now.strftime(_STAMP),
        expires_at=(now + timedelta(seconds=ttl_s)).strftime(_STAMP),
    )
    fs.publish(root.quarantined(_validate_host(host)), records.encode(mark))


def quarantined(root: RootPaths) -> dict[str, Quarantined]:
    """Find all quarantined hosts. A file that can't be read counts as a quarantine too."""
    now = datetime.now(UTC).strftime(_STAMP)
    marks: dict[str, Quarantined] = {}
    for name in sorted(fs.list_names(root.quarantine)):
        host = name.removesuffix(".json")
        if host == name or _HOST.fullmatch(host) is None:
            continue
        mark = read_record(root.quarantine / name, Quarantined) or Quarantined(host=host)
        if not mark.expires_at or mark.expires_at > now:
            marks[host] = mark
    return marks


def read_quarantine(root: RootPaths, host: str) -> Quarantined | None:
    """This host's quarantine; None if it has none. Reads one file, however many hosts have one."""
    named = _HOST.fullmatch(host) is not None
    data = read_bytes(root.quarantined(host)) if named else None
    if data is None:
        return None
    mark = records.parse(data, Quarantined) or Quarantined(host=host)
    in_force = not mark.expires_at or mark.expires_at > datetime.now(UTC).strftime(_STAMP)
    return mark if in_force else None


def clear(root: RootPaths, host: str) -> None:
    """End a host's quarantine."""
    fs.remove(root.quarantined(_validate_host(host)))


def drain(root: RootPaths, worker: str) -> None:
    """Ask a worker to finish its job and to claim no other."""
    fs.touch(root.workers / f"{validate_worker(worker)}.drain")


def is_draining(root: RootPaths, worker: str) -> bool:
    """Whether this worker was asked to drain."""
    return fs.exists(root.workers / f"{validate_worker(worker)}.drain")


def validate_worker(worker: str) -> str:
    """Return the worker's id if it is safe in a file name. Raises JobspecError."""
    if WORKER_PATTERN.fullmatch(worker) is None:
        raise JobspecError(
            f"`{worker}` is not a worker id", hint="use 1 to 80 of the letters a-z, digits and `-`"
        )
    return worker


def validate_job(job: str) -> str:
    """Return the job's id if it is safe in a file name. Raises JobspecError."""
    if JOB_PATTERN.fullmatch(job) is None:
        raise JobspecError(f"`{job}` is not a job id", hint="`jobspec status` lists them")
    return job


def _validate_host(host: str) -> str:
    if _HOST.fullmatch(host) is None:
        raise JobspecError(
            f"`{host}` is not a host name", hint="use letters, digits, `.`, `_` and `-`"
        )
    return host
