"""Ties the processes that an engine starts to the process that started them.

vLLM starts its processes by itself, by fork or by spawn, and they do not notice that their parent
was killed: they would keep the GPU's memory. The kernel's parent-death signal ends them.
"""

from __future__ import annotations

import os
import signal
import threading

from worker.process.rank_launcher import die_with_parent

_forking: int | None = None  # the process that forks, noted just before it does


def die_with_this_process() -> None:
    """Make every process that is forked from here on, and theirs in turn, die with its parent.

    Only forks by the main thread count: the kernel sends the signal when the forking *thread* ends.
    Processes that are spawned import the main module again; there `die_with_spawner` does the same.
    """
    os.register_at_fork(before=_note_parent, after_in_child=_follow_parent)


def die_with_spawner() -> None:
    """Make this process, which multiprocessing has spawned, die with its parent."""
    die_with_parent(signal.SIGKILL, os.getppid())


def _note_parent() -> None:
    global _forking  # noqa: PLW0603 - handed from one side of a fork to the other
    _forking = os.getpid() if threading.current_thread() is threading.main_thread() else None


def _follow_parent() -> None:
    if _forking is not None:
        die_with_parent(signal.SIGKILL, _forking)
