"""`status --watch` in a real terminal: redrawn in place, resized, left with Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from jobspec.queue.queue import Queue
from tests.support.commands import PATIENCE_S, jobspec
from tests.support.queues import enqueue_and_claim, report_progress, scores, succeed
from tests.support.specs import base_spec
from tests.support.terminal import Terminal


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
    claim = enqueue_and_claim(queue, base_spec())
    # The interval is ten minutes: only the change of size can bring the next frame.
    watching.resize(30)
    os.kill(watching.process.pid, signal.SIGWINCH)
    frame = watching.read_until("1 worker alive")
    assert "\x1b[H" in frame and "0 of 1 job ended" in frame
    watching.resize(160)
    os.kill(watching.process.pid, signal.SIGWINCH)
    assert "qwen3-8b-base" in frame and claim.job not in frame, "the digest is left out first"
    assert "WORKER" in watching.read_until("1 worker alive")
    os.kill(watching.process.pid, signal.SIGINT)
    watching.read_until("\x1b[?1049l")
    assert claim.job in watching.read_until("1 worker alive"), "the last frame stays on the screen"
    assert watching.process.wait(PATIENCE_S) == 0


def test_watch_fits_a_screen_that_is_too_low(queue: Queue) -> None:
    for n in range(8):
        enqueue_and_claim(queue, base_spec(notes=str(n)))
    arguments = ("status", "--watch", "--interval", "600", "--root", str(queue.paths.root))
    terminal = Terminal(*arguments, columns=100, lines=8)
    try:
        terminal.read_until("\x1b[H")
        frame = terminal.read_until("\x1b[J")
        assert frame.count("\n") <= 8 and "8 running" in frame and "1 worker alive" in frame
    finally:
        terminal.close()


def test_watch_draws_progress_bars_in_a_narrow_terminal(queue: Queue) -> None:
    report_progress(enqueue_and_claim(queue, base_spec()), 43, loss=0.4)
    succeed(queue, base_spec(notes="1"), scores(0.9, 0.7))
    arguments = ("status", "--watch", "--interval", "600", "--root", str(queue.paths.root))
    terminal = Terminal(*arguments, columns=60)
    try:
        frame = terminal.read_until("\x1b[J")
    finally:
        terminal.close()
    assert "██████████░░░░░░░░░░ 1 of 2 jobs ended" in frame
    assert "████░░░░░░" in frame and "train 43 %" in frame and "2h 03m left" in frame
    assert "qwen3-8b-base" in frame


def test_watch_needs_a_terminal(queue: Queue) -> None:
    done = jobspec("status", "--watch", "--root", queue.paths.root, code=2)
    assert "needs a terminal" in done.stderr


def test_status_in_a_terminal_has_colours_and_its_width(queue: Queue) -> None:
    enqueue_and_claim(queue, base_spec())
    terminal = Terminal("status", "--root", str(queue.paths.root), columns=60)
    try:
        text = terminal.read_until("1 worker alive")
        assert "\x1b[36m" in text
        assert "WORKER" not in text
    finally:
        terminal.close()
