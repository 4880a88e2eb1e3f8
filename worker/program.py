"""Runs a program's `main` and ends its process with its exit code. Standard library only."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import NoReturn

_NOT_FLUSHED = 120  # Python's own code for it


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and end this process with the exit code that it returns or gives to `sys.exit`.

    The interpreter is not torn down, because that can replace the exit code. A thread of a native
    library that still holds a tensor then calls an interpreter that is gone, and the process is
    aborted (exit code 134). Gloo's threads do so now and then after a collective.
    Functions registered with `atexit` run as usual. Threads are not waited for.

    Source: PyTorch, pull request 179291; multiprocessing ends its processes in the same way.
    """
    try:
        code = main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
        code = 1 if isinstance(ended.code, str) else ended.code
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the reader is gone, the disk is full, or it is closed
            code = code or _NOT_FLUSHED
    os._exit(code or 0)
