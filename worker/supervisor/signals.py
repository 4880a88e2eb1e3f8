"""What signals asked a worker for."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from types import FrameType


@dataclass
class Signals:
    """The requests so far. A repeated signal changes nothing; a second SIGINT means at once.

    Attributes:
        requeue: the worker's time ends, so the batch script should requeue the array element.
    """

    stop: bool = False
    requeue: bool = False
    at_once: bool = False
    _asked_at: float = 0.0

    def run_out(self) -> None:
        """The worker's own time ends: treated like SIGUSR2."""
        if not self.stop:
            self._asked_at = time.monotonic()
            self.stop = self.requeue = True

    def asked_s(self) -> float:
        """Seconds since a stop was first asked for; 0 without one."""
        return time.monotonic() - self._asked_at if self.stop else 0.0

    def install(self) -> None:
        """Handle SIGTERM, SIGINT and SIGUSR2. NCCL uses SIGUSR1."""
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(sig, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.stop:
            self.at_once = True
        if not self.stop:
            self._asked_at = time.monotonic()
            self.requeue = signum == signal.SIGUSR2
        self.stop = True
