"""`status --watch` in a real terminal: redrawn in place, resized, left with Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clikit import base_spec, environment, jobspec, take

from jobspec.queue import Queue

PATIENCE_S = 30.0


class Terminal:
    """A command in a pseudo-terminal of a given size, and what it has drawn so far."""

    def __init__(self, *args: str, columns: int, lines: int = 24) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(columns, lines)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobspec.cli", *args],
            env=environment(TERM="xterm", NO_COLOR=""),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.drawn = ""

    def resize(self, columns: int, lines: int = 24) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

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

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue.create(tmp_path / "root")


@pytest.fixture
def watching(queue: Queue) -> Iterator[Terminal]:
    arguments = ("status", "--watch", "--interval", "600", "--root", str(queue.paths.root))
    terminal = Terminal(*arguments, columns=160)
    yield terminal
    terminal.close()


def test_watch_redraws_at_once_when_resized_and_ends_with_ctrl_c(
    queue: Queue, watching: Terminal
) -> None:
    watching.read_until("\x1b[?1049h")
    watching.read_until("0 workers alive")
    claim = take(queue, base_spec())
    # The interval is ten minutes: only the change of size can bring the next frame.
    watching.resize(80)
    os.kill(watching.process.pid, signal.SIGWINCH)
    frame = watching.read_until("1 worker alive")
    assert "\x1b[H" in frame and claim.job in frame and "WORKER" not in frame
    watching.resize(160)
    os.kill(watching.process.pid, signal.SIGWINCH)
    assert "WORKER" in watching.read_until("1 worker alive")
    os.kill(watching.process.pid, signal.SIGINT)
    watching.read_until("\x1b[?1049l")
    assert claim.job in watching.read_until("1 worker alive"), "the last frame stays on the screen"
    assert watching.process.wait(PATIENCE_S) == 0


def test_watch_fits_a_screen_that_is_too_low(queue: Queue) -> None:
    for n in range(8):
        take(queue, base_spec(notes=str(n)))
    arguments = ("status", "--watch", "--interval", "600", "--root", str(queue.paths.root))
    terminal = Terminal(*arguments, columns=100, lines=8)
    try:
        terminal.read_until("\x1b[H")
        assert terminal.read_until("\x1b[J").count("\n") <= 8
    finally:
        terminal.close()


def test_watch_needs_a_terminal(queue: Queue) -> None:
    done = jobspec("status", "--watch", "--root", queue.paths.root, code=2)
    assert "needs a terminal" in done.stderr


def test_status_in_a_terminal_has_colours_and_its_width(queue: Queue) -> None:
    take(queue, base_spec())
    terminal = Terminal("status", "--root", str(queue.paths.root), columns=60)
    try:
        text = terminal.read_until("1 worker alive")
        assert "\x1b[36m" in text
        assert "WORKER" not in text
    finally:
        terminal.close()
