"""A filesystem that fails below a worker: every call on a root counts, and one or a minute fails.

It replaces functions of `os` and `open` in this process, below everything that jobspec and the
worker do, and the clock, so that a minute takes no time.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

BY_PATH = (
    *("open", "stat", "lstat", "listdir", "scandir", "mkdir", "rename", "replace", "unlink"),
    *("remove", "rmdir", "symlink", "readlink", "chmod", "chown", "statvfs"),
)
BY_DESCRIPTOR = ("read", "write", "pread", "fstat", "fchmod", "fsync", "ftruncate")
TRANSIENT = (errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOLCK, errno.EINTR)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# Calls that fail where nothing can be written.
WRITING = frozenset(
    (
        *("open to write", "mkdir", "rename", "replace", "unlink", "remove", "rmdir", "symlink"),
        *("chmod", "chown", "write", "fchmod", "fsync", "ftruncate"),
    )
)


@dataclass
class Outage:
    """Fails the calls on `root` from the `index`-th on, for `seconds`; 0: that call alone.

    Attributes:
        after: the call is made, and then fails.
        count: calls so far.
    """

    root: Path
    index: int
    number: int
    seconds: float = 0.0
    after: bool = False
    count: int = 0
    fired: list[str] = field(default_factory=list[str])
    now_s: float = 1000.0
    _until_s: float | None = None
    _descriptors: set[int] = field(default_factory=set[int])

    def sleep(self, seconds: float) -> None:
        self.now_s += max(0.0, seconds)

    def monotonic(self) -> float:
        self.now_s += 1e-4
        return self.now_s

    def call(self, name: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a call, or let it fail."""
        if not self._is_below(name, args):
            return real(*args, **kwargs)
        kind = "open to write" if name == "open" and _writes(args) else name
        fails = self._fails(kind)
        if fails:
            self.fired.append(kind)
            if self.after and kind not in ("open", "open to write"):  # no descriptor is lost
                real(*args, **kwargs)
            raise OSError(self.number, os.strerror(self.number), *map(str, args[:1]))
        answer = real(*args, **kwargs)
        if name == "open" and isinstance(answer, int):
            self._descriptors.add(answer)
        return answer

    def _fails(self, kind: str) -> bool:
        if self.number in FULL and kind not in WRITING:
            return False
        here, self.count = self.count, self.count + 1
        if here == self.index:
            self._until_s = self.now_s + self.seconds
            return True
        return self._until_s is not None and self.now_s < self._until_s

    def _is_below(self, name: str, args: tuple[Any, ...]) -> bool:
        if name in BY_DESCRIPTOR:
            return args[0] in self._descriptors
        both = name in ("rename", "replace")
        paths = args[1:2] if name == "symlink" else args[: 2 if both else 1]
        return any(
            isinstance(path, str | os.PathLike) and os.fspath(path).startswith(f"{self.root}/")
            for path in paths
        )


def _writes(args: tuple[Any, ...]) -> bool:
    how = args[1] if len(args) > 1 else "r"
    if isinstance(how, int):
        return bool(how & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return any(letter in how for letter in "wax+")


@contextmanager
def outage(
    root: Path, index: int, number: int, seconds: float = 0.0, *, after: bool = False
) -> Iterator[Outage]:
    """Let calls on `root` fail in this block, and time pass only by waiting."""
    failing = Outage(root, index, number, seconds, after)

    def replaced(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: failing.call(name, real, *args, **kwargs)

    def close(descriptor: int) -> None:
        failing._descriptors.discard(descriptor)
        real_close(descriptor)

    real_close = os.close
    with ExitStack() as stack:
        for name in (*BY_PATH, *BY_DESCRIPTOR):
            stack.enter_context(mock.patch.object(os, name, replaced(name, getattr(os, name))))
        stack.enter_context(mock.patch.object(os, "close", close))
        opened = replaced("open", io.open)
        stack.enter_context(mock.patch.object(io, "open", opened))
        stack.enter_context(mock.patch.object(builtins, "open", opened))
        stack.enter_context(mock.patch.object(time, "sleep", failing.sleep))
        stack.enter_context(mock.patch.object(time, "monotonic", failing.monotonic))
        yield failing
