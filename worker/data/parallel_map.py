"""One function over many items on every core, results in order.

Processes are forked, so that what the function holds (a tokenizer takes half a second to load) is
loaded once and shared; only items and results travel. A process that has threads must not fork:
call this before numpy or pyarrow are imported.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

from worker.process.rank_launcher import die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int | None = None
) -> Iterator[Result]:
    """What `function` makes of each item. The first exception ends the work and is raised.

    Args:
        processes: how many; all cores this process may use if None. One works right here.
    """
    count = min(processes or len(os.sched_getaffinity(0)), len(items))
    if count <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("fork")
    adopt = (function, os.getpid())
    with ProcessPoolExecutor(count, context, initializer=_adopt, initargs=adopt) as pool:
        # A window, not `map`: that would read on through all items and hold every result.
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(_call, item))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


_function: list[Callable[[Any], Any]] = []


def _adopt(function: Callable[[Any], Any], parent: int) -> None:
    die_with_parent(signal.SIGKILL, parent)
    _function[:] = [function]


def _call(item: Any) -> Any:
    return _function[0](item)
