"""Maps a function over many items on all cores, with results in order.

Processes are forked, so they inherit what the function refers to (loading a tokenizer takes half a
second), and only items and results are pickled. A process with threads must not fork, so call this
before importing numpy or pyarrow.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from worker.process.rank_launcher import die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int | None = None
) -> Iterator[Result]:
    """Apply `function` to each item. The first exception cancels the rest and is raised.

    Args:
        function: called in the child processes.
        items: its arguments.
        processes: default: one per core that this process may use. With one, nothing is forked.
    """
    count = min(processes or len(os.sched_getaffinity(0)), len(items))
    if count <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("fork")
    # The forked processes inherit the function; `map` would pickle it for each item.
    initargs = (function, os.getpid())
    with ProcessPoolExecutor(count, context, initializer=_start, initargs=initargs) as pool:
        yield from pool.map(_call, items)


_function: list[Callable[[Any], Any]] = []


def _start(function: Callable[[Any], Any], parent: int) -> None:
    die_with_parent(signal.SIGKILL, parent)
    _function[:] = [function]


def _call(item: Any) -> Any:
    return _function[0](item)
