"""Stops that signals requested from a worker."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from types import FrameType


@dataclass
class Signals:
    """The requests so far. A repeated signal changes nothing, but a second SIGINT stops at once.

    Attributes:
        stop: end the current phase with a checkpoint, and leave.
        requeue: the time limit is near, so the batch script should requeue the array element.
        at_once: kill the phase.
    """

    stop: bool = False
    requeue: bool = False
    at_once: bool = False
    _asked_at: float = 0.0

    def run_out(self) -> None:
        """Stop because the worker's time limit is near, as SIGUSR2 does."""
        if not self.stop:
            self._asked_at = time.monotonic()
            self.stop = self.requeue = True

    def asked_s(self) -> float:
        """Seconds since the first request to stop; 0 without one."""
        return time.monotonic() - self._asked_at if self.stop else 0.0

    def install(self) -> None:
        """Handle SIGTERM, SIGINT, SIGHUP and SIGUSR2. SIGUSR1 is left to NCCL."""
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            signal.signal(sig, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.stop:
            self.at_once = True
        if not self.stop:
            self._asked_at = time.monotonic()
            self.requeue = signum == signal.SIGUSR2
        self.stop = True
