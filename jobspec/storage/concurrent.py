"""Calls that each wait for a device or a server, made at once, so that they wait once."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Sequence


def at_once(calls: Sequence[Callable[[], object]]) -> None:
    """Make all calls, the first in this thread and the others beside it; returns when all ended.

    The threads are the interpreter's bare ones: `threading.Thread` costs as much as an fsync.

    Raises:
        OSError: what the first of those that failed said, when all have ended.
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
        except RuntimeError:  # no thread to be had here: then one after the other
            one(call, running)
    try:
        calls[0]()
    except OSError as error:
        failed.append(error)
    for running in all_running:
        running.acquire()
    if failed:
        raise failed[0]
