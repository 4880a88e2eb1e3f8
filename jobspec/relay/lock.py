"""One relay a root: a token in a directory, moved by rename alone, as claims are.

`ROOT/relay/writer/` holds one name: `free`, or `<counter>.<owner>`, which its owner renames to the
next counter as a beat. An owner whose process has gone from this host is dead; one elsewhere is
dead when its beat has not moved for a lease, seen by whoever waits, on that process's own clock.
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
    """Another relay has taken over: this one must write nothing more."""


class Writer:
    """This process's hold on the token."""

    def __init__(self, directory: Path, name: str) -> None:
        self._dir = directory
        self._name = name

    def beat(self) -> None:
        """Show that this relay lives, and make sure that it still may write. Raises Fenced."""
        counter, _, owner = self._name.partition(".")
        following = f"{int(counter) + 1}.{owner}"
        if not fs.move_once(self._dir / self._name, self._dir / following):
            raise Fenced(
                "another relay has taken over: this one was silent for too long",
                hint="nothing is lost; `jobspec relay` says who runs",
            )
        self._name = following

    def release(self) -> None:
        """Leave the token for the next one."""
        fs.move_once(self._dir / self._name, self._dir / FREE)


@contextlib.contextmanager
def sole(
    root: RootPaths,
    layout: Format,
    wait: Callable[[float], None] = time.sleep,
) -> Generator[Writer]:
    """Be the only relay of this root.

    Raises:
        RelayError: another one runs; says which.
    """
    directory = root.relay_lock
    _make(directory)
    writer = _take(directory, layout, wait)
    try:
        yield writer
    finally:
        with contextlib.suppress(OSError):
            writer.release()


def _make(directory: Path) -> None:
    if fs.exists(directory):
        return
    fs.make_dir(directory.parent)
    with fs.staged_dir(directory, {FREE: (b"", 0o644)}) as staged:
        fs.place_dir(staged, directory)


def _take(directory: Path, layout: Format, wait: Callable[[float], None]) -> Writer:
    mine = f"{tempfiles.host()}.{tempfiles.pid_space()}.{os.getpid()}.{os.urandom(4).hex()}"
    seen, since, empty = "", time.monotonic(), 0
    while True:
        names = fs.list_names(directory)
        empty = 0 if names else empty + 1
        if empty > _LOOKS:  # RACE: a name that moves can be missed, hence not at the first look
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
            return Writer(directory, following)
        wait(min(1.0, layout.heartbeat_s / 4))


def _occupied(directory: Path, owned: re.Match[str]) -> RelayError:
    return RelayError(
        f"a relay runs already: process {owned['pid']} on {owned['host']}",
        file=directory,
        hint="one is enough for all jobs; stop that one first to run it here",
    )


def _is_dead(owned: re.Match[str]) -> bool:
    here = owned["host"] == tempfiles.host() and int(owned["space"]) == tempfiles.pid_space()
    return here and not tempfiles.lives(int(owned["pid"]))
