"""Make several blocking calls at the same time, so that their waits overlap."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Sequence


def at_once(calls: Sequence[Callable[[], object]]) -> None:
    """Make all calls, the first in this thread, and return when all have ended.

    Uses the interpreter's low-level threads: `threading.Thread` costs as much as an fsync.

    Raises:
        OSError: the first call that failed, after all have ended.
    """
    failed: list[BaseException] = []

    def one(call: Callable[[], object], running: threading.Lock) -> None:
        try:
            call()
        except BaseException as error:
            failed.append(error)
        finally:
            running.release()

    all_running: list[threading.Lock] = []
    for call in calls[1:]:
        running = threading.Lock()
        running.acquire()
        all_running.append(running)
        try:
            _thread.start_new_thread(one, (call, running))
        except RuntimeError:  # no thread could be started: call one after the other
            one(call, running)
    try:
        calls[0]()
    except OSError as error:
        failed.append(error)
    for running in all_running:
        running.acquire()
    if failed:
        raise failed[0]
