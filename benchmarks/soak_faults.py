"""Faults of the soak test besides kills: failing filesystem calls, and a group's umasks."""

from __future__ import annotations

import errno
import mmap
import os
import random
import struct
import time
from pathlib import Path
from typing import Any

from jobspec.storage import descriptors, fs

KINDS = ("kill", "stop", "delete", "outage", "full")
TRANSIENT = (errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOLCK, errno.EINTR)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_GROUP, _FIRST_USER, _UMASKS = 20_000, 20_001, (0o022, 0o077)
_READING = ("stat", "lstat", "listdir", "readlink", "read", "pread", "fstat")
_ADDING = ("mkdir", "symlink", "write", "fsync", "ftruncate")  # what needs space
_CHANGING = (*_ADDING, "rename", "unlink", "rmdir", "chmod", "chown", "fchmod")
_WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Weather:
    """Which error the workers' calls on the root get now, in memory that all of them share."""

    _NOW = struct.Struct("=iid")  # errno, whether all workers are affected, until when
    _FAILED = struct.Struct("=q")

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 4096)

    def fail(self, kind: str, seconds: float) -> None:
        """Let calls fail for so long: those of all workers, or those of one in two."""
        number = random.choice(TRANSIENT if kind == "outage" else FULL)
        everybody = random.random() < 0.5
        self._shared[: self._NOW.size] = self._NOW.pack(
            number, everybody, time.monotonic() + seconds
        )

    def clear(self) -> None:
        self._shared[: self._NOW.size] = self._NOW.pack(0, 0, 0.0)

    def error(self) -> int:
        """The error that this process gets now; 0 for none."""
        number, everybody, until = self._NOW.unpack_from(self._shared)
        exposed = everybody or os.getpid() // 2 % 2  # as many of either user
        return number if number and exposed and time.monotonic() < until else 0

    def count(self) -> None:
        """Note one failed call. Counts of processes that do so at once may be lost."""
        at = self._NOW.size
        (failed,) = self._FAILED.unpack_from(self._shared, at)
        self._FAILED.pack_into(self._shared, at, failed + 1)

    @property
    def failed(self) -> int:
        """About how many calls failed."""
        return self._FAILED.unpack_from(self._shared, self._NOW.size)[0]


def expose_to(weather: Weather) -> None:
    """Let the filesystem calls of this process fail as `weather` says."""
    stand_in: Any = _ExposedOs(weather)
    fs.os = descriptors.os = stand_in


class _ExposedOs:
    """`os`, whose filesystem calls may fail, before the call is made or after it."""

    def __init__(self, weather: Weather) -> None:
        self._weather = weather

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in (*_READING, *_CHANGING, "open"):
            return real

        def exposed(*args: Any, **kwargs: Any) -> Any:
            number = self._weather.error()
            if not number or not _concerns(number, name, args):
                return real(*args, **kwargs)
            self._weather.count()
            if name != "open" and number in TRANSIENT and random.random() < 0.5:
                real(*args, **kwargs)  # only the reply is lost
            raise OSError(number, os.strerror(number), *map(str, args[:1]))

        return exposed


def _concerns(number: int, name: str, args: tuple[Any, ...]) -> bool:
    if number in TRANSIENT:
        return True
    if name == "open":
        return bool(args[1] & _WRITING_FLAGS)
    return name in (_CHANGING if number == errno.EROFS else _ADDING)


def make_group_root(root: Path) -> None:
    """Make the directory of a root that a group shares. Only root can give it to the group."""
    os.environ[descriptors.ALLOW_GROUP] = "1"
    root.mkdir()
    os.chown(root, -1, _GROUP)
    root.chmod(0o2775)


def become_member() -> None:
    """Become one of two users, each with a umask of its own, in the root's group."""
    member = os.getpid() % 2
    os.setgroups([])
    os.setgid(_GROUP)
    os.setuid(_FIRST_USER + member)
    os.umask(_UMASKS[member])
