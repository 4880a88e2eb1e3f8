"""Runs a phase as a child process: a rank launcher in its own session, with its own log."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path


class Child:
    """A running phase. It appends to its log, because a phase may be run more than once."""

    def __init__(self, command: list[str], env: Mapping[str, str], log: Path) -> None:
        self.started = time.monotonic()
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def wall_s(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.started

    def wait(self, timeout_s: float) -> int | None:
        """The exit code, or None if it still runs after `timeout_s`."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return code if code >= 0 else 128 - code

    def stop(self) -> None:
        """Ask the phase to checkpoint and exit; the rank launcher tells all ranks."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR2)

    def kill(self) -> None:
        """Kill the rank launcher and with it all processes of the phase; wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
