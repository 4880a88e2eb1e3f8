"""A lock that lets one process at a time do something: a file that changes hands by rename.

Its directory holds one file: `free`, or `<counter>.<owner>`, which the owner renames to the next
counter as its heartbeat. An owner on this host is dead when its process is gone; one on another
host is dead when its counter did not change for a lease, on the waiting process's clock.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Generator
from pathlib import Path

from jobspec.errors import JobspecError
from jobspec.storage import fs, tempfiles

FREE = "free"
_OWNED = re.compile(
    r"(?P<counter>[0-9]+)\.(?P<host>[a-z0-9-]+)\.(?P<space>[0-9]+)\.(?P<pid>[0-9]+)\.[0-9a-f]+"
)
_LOOKS = 5


class Fenced(JobspecError):  # noqa: N818 - reads as what happened
    """Another process has the lock now: this one must write nothing more."""


class LockHeld(JobspecError):  # noqa: N818 - reads as what happened
    """Another process has the lock and sends heartbeats."""


class HandoverLock:
    """The lock, held by this process. `holder` is what its owners are called in messages."""

    def __init__(self, directory: Path, name: str, holder: str) -> None:
        self._dir = directory
        self._name = name
        self._holder = holder

    def heartbeat(self) -> None:
        """Send a heartbeat and check that this process still has the lock. Raises Fenced."""
        counter, _, owner = self._name.partition(".")
        following = f"{int(counter) + 1}.{owner}"
        if not fs.move_once(self._dir / self._name, self._dir / following):
            raise Fenced(
                f"another {self._holder} took over because this one sent no heartbeat for too long",
                hint="nothing is lost; start it again to see which one is running",
            )
        self._name = following

    def release(self) -> None:
        """Free the lock for the next process."""
        fs.move_once(self._dir / self._name, self._dir / FREE)


@contextlib.contextmanager
def acquire(
    directory: Path,
    holder: str,
    *,
    heartbeat_s: float,
    lease_s: float,
    wait: Callable[[float], None] = time.sleep,
) -> Generator[HandoverLock]:
    """Hold the lock for the length of the block.

    Args:
        directory: of this lock alone; created if needed.
        holder: what its owners are called in messages: `relay`.
        heartbeat_s: how often owners send heartbeats.
        lease_s: the silence after which an owner on another host counts as dead.
        wait: sleeps.

    Raises:
        LockHeld: another process holds it; the message says which.
    """
    _make(directory)
    pause_s = min(1.0, heartbeat_s / 4)
    lock = HandoverLock(directory, _acquire(directory, holder, pause_s, lease_s, wait), holder)
    try:
        yield lock
    finally:
        with contextlib.suppress(OSError):
            lock.release()


def _make(directory: Path) -> None:
    if fs.exists(directory):
        return
    fs.make_dir(directory.parent)
    with fs.staged_dir(directory, {FREE: (b"", 0o644)}) as staged:
        fs.place_dir(staged, directory)


def _acquire(
    directory: Path, holder: str, pause_s: float, lease_s: float, wait: Callable[[float], None]
) -> str:
    """The name of the lock's file, which is this process's from now on."""
    mine = f"{tempfiles.host()}.{tempfiles.pid_space()}.{os.getpid()}.{os.urandom(4).hex()}"
    seen, since, empty = "", time.monotonic(), 0
    while True:
        names = fs.list_names(directory)
        empty = 0 if names else empty + 1
        if empty > _LOOKS:  # RACE: a listing can miss a name that is being renamed, so look again
            fs.touch(directory / FREE)
        now, name = time.monotonic(), max(names, default=seen)
        owned = _OWNED.fullmatch(name)
        if owned and seen and name != seen:
            raise _occupied(directory, holder, owned)
        if name != seen:
            seen, since = name, now
        free = name == FREE or (owned and (_is_dead(owned) or now - since >= lease_s))
        following = f"{int(owned['counter']) + 1 if owned else 0}.{mine}"
        if free and fs.move_once(directory / name, directory / following):
            return following
        wait(pause_s)


def _occupied(directory: Path, holder: str, owned: re.Match[str]) -> LockHeld:
    return LockHeld(
        f"a {holder} is already running: process {owned['pid']} on {owned['host']}",
        file=directory,
        hint=f"one {holder} serves all jobs; stop that one first to run it here",
    )


def _is_dead(owned: re.Match[str]) -> bool:
    here = owned["host"] == tempfiles.host() and int(owned["space"]) == tempfiles.pid_space()
    return here and not tempfiles.lives(int(owned["pid"]))
