"""Immutable job specs in a file-based queue. This package runs on a login node, without torch.

import jobspec

jobspec.results("jobspec-root")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobspec.queue.queue import Queue
    from jobspec.results.listing import Run, RunTable, results, runs
    from jobspec.spec.schema import JobSpec

__all__ = ["JobSpec", "Queue", "Run", "RunTable", "results", "runs"]

# Imported on demand: `jobspec --help` needs none of them and must be fast.
_HOMES = {
    "JobSpec": "jobspec.spec.schema",
    "Queue": "jobspec.queue.queue",
    "Run": "jobspec.results.listing",
    "RunTable": "jobspec.results.listing",
    "runs": "jobspec.results.listing",
}


def __getattr__(name: str) -> Any:
    if name == "results":
        return import_module("jobspec.results")  # which can be called
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module `jobspec` has no `{name}`")
