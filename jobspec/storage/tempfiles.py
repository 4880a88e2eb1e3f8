"""Temporary names: whose they are, and whether that writer is dead.

They begin with a dot, which makes them nobody's to readers, and name their writer:
`.tmp-<host>-<pid namespace>-<pid>-<time>-<random>-<target>`.
"""

from __future__ import annotations

import os
import re
import time
from functools import cache
from pathlib import Path

_TEMP = re.compile(
    r"\.tmp-(?P<host>[a-z0-9-]+)-(?P<space>[0-9]+)-(?P<pid>[0-9]+)-(?P<epoch>[0-9]+)-[0-9a-f]{8}-.*"
)
ABANDONED_S = 86400.0


def beside(path: Path) -> Path:
    """A temporary name of this process's own beside `path`."""
    return path.parent / named(path.name)


def named(target: str) -> str:
    """A temporary name of this process's own for what is to be called `target`."""
    nonce = os.urandom(4).hex()
    writer = f"{host()}-{pid_space()}-{os.getpid()}-{int(time.time())}-{nonce}"
    return f".tmp-{writer}-{target[:100]}"


def is_abandoned(name: str) -> bool:
    """Whether this is a temporary name whose writer is dead.

    Dead is a process that has gone from this host. Of another host's nothing is known: its names
    are left alone for a day.
    """
    found = _TEMP.fullmatch(name)
    if found is None:
        return False
    if time.time() - int(found["epoch"]) > ABANDONED_S:
        return True
    here = found["host"] == host() and int(found["space"]) == pid_space()
    return here and not lives(int(found["pid"]))


def host() -> str:
    """This machine's name, in the letters that file names may have."""
    return _slug(os.uname().nodename)


@cache
def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:24] or "host"


@cache
def pid_space() -> int:
    """Tells containers on one host apart, whose process ids mean nothing to each other.

    A process stays in the one it began in; its children may begin in another.
    """
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


os.register_at_fork(after_in_child=pid_space.cache_clear)


def lives(pid: int) -> bool:
    """Whether a process of this host (and of this container) is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
