"""Temporary names, which tell who wrote a file and so whether its writer is dead.

They begin with a dot, so that readers ignore them, and name their writer:
`.tmp-<host>-<pid namespace>-<pid>-<time>-<random>-<target>`.
"""

from __future__ import annotations

import os
import re
import time
from functools import cache
from pathlib import Path

_TEMP = re.compile(
    r"\.tmp-(?P<host>[a-z0-9-]+)-(?P<space>[0-9]+)-(?P<pid>[0-9]+)-(?P<epoch>[0-9]+)-[0-9a-f]{8}-"
    r"(?P<target>.*)"
)
ABANDONED_S = 86400.0


def beside(path: Path) -> Path:
    """A temporary path of this process in the directory of `path`."""
    return path.parent / named(path.name)


def named(target: str) -> str:
    """A temporary name of this process for a file that will be renamed to `target`."""
    nonce = os.urandom(4).hex()
    writer = f"{host()}-{pid_space()}-{os.getpid()}-{int(time.time())}-{nonce}"
    return f".tmp-{writer}-{target[:100]}"


def target_of(name: str) -> str:
    """The name that a temporary name will be renamed to; any other name as it is."""
    match = _TEMP.fullmatch(name)
    return name if match is None else match["target"]


def is_abandoned(name: str) -> bool:
    """Whether this is a temporary name whose writer is dead.

    A process of this host is dead once it is gone. Of processes on other hosts nothing is known, so
    their names count as abandoned after a day.
    """
    match = _TEMP.fullmatch(name)
    if match is None:
        return False
    if time.time() - int(match["epoch"]) > ABANDONED_S:
        return True
    here = match["host"] == host() and int(match["space"]) == pid_space()
    return here and not lives(int(match["pid"]))


def host() -> str:
    """This machine's name, reduced to characters that file names may have."""
    return _slug(os.uname().nodename)


@cache
def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:24] or "host"


@cache
def pid_space() -> int:
    """Identifies the namespace of process ids: containers on one host have different ones.

    A process stays in its namespace; its children may start in another.
    """
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


os.register_at_fork(after_in_child=pid_space.cache_clear)


def lives(pid: int) -> bool:
    """Whether a process of this host (and of this container) exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
