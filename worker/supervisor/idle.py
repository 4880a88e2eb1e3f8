"""How an idle worker waits for jobs: by notifications on a local filesystem, otherwise by polling.

inotify reports only changes made on this machine, so it is useless on a network filesystem. There
the pending directory is listed after 2 s at first, later every 30 s, with jitter.
"""

from __future__ import annotations

import random
import time

from jobspec.records.base import State
from jobspec.storage import mounts
from jobspec.storage.layout import RootPaths

FIRST_S = 2.0
LONGEST_S = 30.0


class IdleWait:
    """Waits between two searches for a job.

    Args:
        paths: paths of the root.
        poll: poll on every filesystem.
    """

    def __init__(self, paths: RootPaths, *, poll: bool = False) -> None:
        pending = paths.state(State.PENDING)
        notified = not poll and mounts.is_local(pending)
        self._changes = mounts.changes(pending) if notified else None
        self.reset()

    def reset(self) -> None:
        """A job was found: start again with short waits."""
        self._wait_s = FIRST_S
        self._since = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since the last job."""
        return time.monotonic() - self._since

    def next_wait_s(self) -> float:
        """How long to wait before the next search; each wait is longer than the last."""
        wait_s = self._wait_s * random.uniform(0.7, 1.3)
        self._wait_s = min(LONGEST_S, self._wait_s * 1.5)
        return wait_s

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds`. True if `pending/` is known to have changed."""
        if self._changes is None:
            time.sleep(max(0.0, seconds))
            return False
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if next(self._changes, None):
                return True
        return False
