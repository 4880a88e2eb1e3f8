"""Commands in a real pseudo-terminal, for tests of what a person sees there."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping

import pyte

from tests.support.commands import PATIENCE_S, ctrl_c_heard, environment


class Terminal:
    """A command in a pseudo-terminal of a given size, and what it has drawn so far."""

    def __init__(
        self, *args: str, columns: int, lines: int = 24, env: Mapping[str, str] | None = None
    ) -> None:
        self._ours, theirs = pty.openpty()
        self._columns, self._lines = columns, lines
        self.resize(columns, lines)
        with ctrl_c_heard():
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobspec.cli", *args],
                env=environment(**{"TERM": "xterm", "NO_COLOR": "", **(env or {})}),
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
            )
        os.close(theirs)
        self.drawn = ""

    def resize(self, columns: int, lines: int = 24) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def screen(self, code: int = 0) -> list[str]:
        """What a person sees once the command has ended: the screen's lines, without colours."""
        screen = pyte.Screen(self._columns, self._lines)
        stream = pyte.Stream(screen)
        while select.select([self._ours], [], [], PATIENCE_S)[0]:
            try:
                stream.feed(os.read(self._ours, 65536).decode())
            except OSError:  # everybody has closed the other end
                break
        assert self.process.wait(PATIENCE_S) == code
        return "\n".join(line.rstrip() for line in screen.display).rstrip("\n").split("\n")

    def read_until(self, text: str) -> str:
        """What was drawn up to `text`; fails where it does not come."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.drawn:
            left = deadline - time.monotonic()
            assert left > 0, f"`{text}` was not drawn; there was: {self.drawn[-2000:]}"
            if select.select([self._ours], [], [], left)[0]:
                self.drawn += os.read(self._ours, 65536).decode()
        before, _, self.drawn = self.drawn.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
