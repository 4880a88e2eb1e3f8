"""The lock that lets one relay run per root: a file that changes hands by rename, as claims do.

`ROOT/relay/writer/` holds one file: `free`, or `<counter>.<owner>`, which the owner renames to the
next counter as its heartbeat. An owner on this host is dead when its process is gone; one on
another host is dead when its counter did not change for a lease, on the waiting relay's clock.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Generator
from pathlib import Path

from jobspec.errors import JobspecError
from jobspec.records.queue_files import Format
from jobspec.relay.wandb_run import RelayError
from jobspec.storage import fs, tempfiles
from jobspec.storage.layout import RootPaths

FREE = "free"
_OWNED = re.compile(
    r"(?P<counter>[0-9]+)\.(?P<host>[a-z0-9-]+)\.(?P<space>[0-9]+)\.(?P<pid>[0-9]+)\.[0-9a-f]+"
)
_LOOKS = 5


class Fenced(JobspecError):  # noqa: N818 - reads as what happened
    """Another relay has the lock now: this one must write nothing more."""


class RelayLock:
    """The lock, held by this process."""

    def __init__(self, directory: Path, name: str) -> None:
        self._dir = directory
        self._name = name

    def heartbeat(self) -> None:
        """Send a heartbeat and check that this process still has the lock. Raises Fenced."""
        counter, _, owner = self._name.partition(".")
        following = f"{int(counter) + 1}.{owner}"
        if not fs.move_once(self._dir / self._name, self._dir / following):
            raise Fenced(
                "another relay took over because this one sent no heartbeat for too long",
                hint="nothing is lost; run `jobspec relay` to see which one is running",
            )
        self._name = following

    def release(self) -> None:
        """Free the lock for the next relay."""
        fs.move_once(self._dir / self._name, self._dir / FREE)


@contextlib.contextmanager
def acquire(
    root: RootPaths, layout: Format, wait: Callable[[float], None] = time.sleep
) -> Generator[RelayLock]:
    """Hold the lock for the length of the block.

    Raises:
        RelayError: another relay holds it; the message says which.
    """
    directory = root.relay_lock
    _make(directory)
    lock = _acquire(directory, layout, wait)
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


def _acquire(directory: Path, layout: Format, wait: Callable[[float], None]) -> RelayLock:
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
            raise _occupied(directory, owned)
        if name != seen:
            seen, since = name, now
        free = name == FREE or (owned and (_is_dead(owned) or now - since >= layout.lease_s))
        following = f"{int(owned['counter']) + 1 if owned else 0}.{mine}"
        if free and fs.move_once(directory / name, directory / following):
            return RelayLock(directory, following)
        wait(min(1.0, layout.heartbeat_s / 4))


def _occupied(directory: Path, owned: re.Match[str]) -> RelayError:
    return RelayError(
        f"a relay is already running: process {owned['pid']} on {owned['host']}",
        file=directory,
        hint="one relay serves all jobs; stop that one first to run it here",
    )


def _is_dead(owned: re.Match[str]) -> bool:
    here = owned["host"] == tempfiles.host() and int(owned["space"]) == tempfiles.pid_space()
    return here and not tempfiles.lives(int(owned["pid"]))
