"""Services that tests start for themselves: once for a session, in a directory of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import pytest

Service = TypeVar("Service")


def started(
    missing: Callable[[], str | None],
    running: Callable[[Path], AbstractContextManager[Service]],
    prefix: str,
) -> Iterator[Service]:
    """The body of a fixture: the service while tests need it, or a skip that says what is missing.

    Args:
        missing: why it can't run here; None where it can.
        running: starts it in a directory, and ends it.
        prefix: what that directory's name begins with; sockets need a short one.
    """
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with (
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as base,
        running(Path(base)) as service,
    ):
        yield service
