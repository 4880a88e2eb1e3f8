"""Waits for conditions, so that tests need no sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

DEADLINE_S = 240.0


def until(
    condition: Callable[[], Any],
    what: str = "a condition",
    timeout_s: float = DEADLINE_S,
    *,
    pause_s: float = 0.02,
) -> Any:
    """Wait until a condition is true, and return its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(pause_s)
    return value
