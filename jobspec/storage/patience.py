"""Repeats an operation on a filesystem that fails for a moment.

A network filesystem may answer ESTALE, EIO or ETIMEDOUT while a server restarts. `patient` repeats
an operation until it succeeds or `limit_s` has passed. Each operation so marked may be repeated
from its beginning, also after its call succeeded and only the reply was lost.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Callable, Generator
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

TRANSIENT = frozenset(
    (
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOLCK, errno.EINTR, errno.EAGAIN),
        *(errno.EBUSY, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED, errno.EHOSTDOWN),
        *(errno.EREMOTEIO, errno.ESHUTDOWN),
    )
)
LIMIT_S = 90.0
_LONGEST_WAIT_S = 1.0


def _accept(error: OSError, waited_s: float) -> bool:
    return True


limit_s = LIMIT_S
# Called before each repetition with the error and the seconds since the first one. False: give up.
on_wait: Callable[[OSError, float], bool] = _accept


class _Thread(threading.local):
    inside = False  # an operation within another is not repeated itself
    limit_s: float | None = None


_thread = _Thread()


def patient(operation: Callable[P, T]) -> Callable[P, T]:
    """Repeat an operation while it fails with one of `TRANSIENT`."""

    @wraps(operation)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
        if _thread.inside:
            return operation(*args, **kwargs)
        _thread.inside = True
        try:
            return operation(*args, **kwargs)
        except OSError as error:
            if error.errno not in TRANSIENT:
                raise
            return _repeat(lambda: operation(*args, **kwargs), error)
        finally:
            _thread.inside = False

    return repeated


@contextlib.contextmanager
def at_most(seconds: float) -> Generator[None]:
    """Repeat for at most so long in this thread: for callers that try again by themselves."""
    before, _thread.limit_s = _thread.limit_s, seconds
    try:
        yield
    finally:
        _thread.limit_s = before


def _repeat(operation: Callable[[], T], error: OSError) -> T:
    began, wait_s = time.monotonic(), 0.0
    limit = limit_s if _thread.limit_s is None else min(limit_s, _thread.limit_s)
    while (waited_s := time.monotonic() - began) < limit and on_wait(error, waited_s):
        time.sleep(wait_s)
        wait_s = min(_LONGEST_WAIT_S, 2 * wait_s or 0.02)
        try:
            return operation()
        except OSError as again:
            if again.errno not in TRANSIENT:
                raise
            error = again
    raise error
