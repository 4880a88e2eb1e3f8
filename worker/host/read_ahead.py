"""Lets the kernel read a model's weights while the processes that will load them are starting.

A phase spends its first seconds on imports. Without this the disk is idle meanwhile, and loading
begins with whatever is not yet in the page cache. Files that are there already cost little.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from jobspec.spec.schema import ModelSpec
from jobspec.storage.layout import RootPaths
from worker.host import memory

# The kernel shortens longer requests to its own read-ahead size, without saying so.
_REQUEST_BYTES = 1 << 17
_MOST_OF_MEMORY = 0.5


def start(model: ModelSpec, root: RootPaths) -> threading.Thread:
    """Read a model's safetensors ahead, in a thread that no caller has to wait for."""
    thread = threading.Thread(target=_read_weights, args=(model, root), daemon=True)
    thread.start()
    return thread


def _read_weights(model: ModelSpec, root: RootPaths) -> None:
    from jobspec.models.directory import locate  # here, so that a worker starts sooner

    try:
        directory = locate(model, root)
        files = sorted(directory.glob("*.safetensors")) if directory is not None else []
        size = sum(file.stat().st_size for file in files)
        if (
            size <= _MOST_OF_MEMORY * memory.usable_gib() * 2**30
        ):  # else the last files would displace the first
            _advise(files)
    except OSError:
        return  # the phase that loads the model will say what is wrong with it


def _advise(files: Iterable[Path]) -> None:
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            for at in range(0, os.fstat(descriptor).st_size, _REQUEST_BYTES):
                os.posix_fadvise(descriptor, at, _REQUEST_BYTES, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)
