"""How an idle worker waits for work: notified where the filesystem is local, else polling gently.

inotify sees this machine's changes only, so on a network filesystem notifications are not even a
hint, and the pending directory is listed after 2 s, rising to 30 s, with jitter.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

from jobspec.paths import RootPaths
from jobspec.record import State

FIRST_S = 2.0
LONGEST_S = 30.0
_LOCAL = frozenset(["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "tmpfs", "overlay"])


class Waiter:
    """Waits between two looks at the queue."""

    def __init__(self, paths: RootPaths) -> None:
        self._directory = paths.state(State.PENDING)
        self._changes = _changes(self._directory) if is_local(self._directory) else None
        self.reset()

    def reset(self) -> None:
        """There was work: begin anew with short waits."""
        self._wait_s = FIRST_S
        self._since = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since there last was work."""
        return time.monotonic() - self._since

    def next_wait_s(self) -> float:
        """How long to wait before the next look; each wait is longer than the one before."""
        wait_s = self._wait_s * random.uniform(0.7, 1.3)
        self._wait_s = min(LONGEST_S, self._wait_s * 1.5)
        return wait_s

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds`. True if something was seen to change in `pending/`."""
        if self._changes is None:
            time.sleep(max(0.0, seconds))
            return False
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if next(self._changes, None):
                return True
        return False


def is_local(path: Path) -> bool:
    """Whether `path` is on a filesystem that only this machine writes.

    Source: /proc/self/mountinfo, proc(5).
    """
    best, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = left.split()[4].replace("\\040", " ")
        if _is_below(str(path.resolve()), mount) and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    return kind in _LOCAL


def _is_below(path: str, mount: str) -> bool:
    return mount == "/" or path == mount or path.startswith(mount + "/")


def _changes(directory: Path) -> Iterator[object]:
    from watchfiles import watch

    return watch(
        directory,
        watch_filter=None,
        debounce=50,
        step=10,
        rust_timeout=100,
        yield_on_timeout=True,
        recursive=False,
        raise_interrupt=False,
    )
