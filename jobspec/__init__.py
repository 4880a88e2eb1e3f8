"""Immutable job specs in a file-based queue. This package runs on a login node, without torch.

from jobspec import JobSpec, Queue
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobspec.queue.queue import Queue
    from jobspec.spec.schema import JobSpec

__all__ = ["JobSpec", "Queue"]


def __getattr__(name: str) -> Any:
    # Imported on demand: `jobspec --help` needs neither and must be fast.
    if name == "Queue":
        from jobspec.queue.queue import Queue

        return Queue
    if name == "JobSpec":
        from jobspec.spec.schema import JobSpec

        return JobSpec
    raise AttributeError(f"module `jobspec` has no `{name}`")
