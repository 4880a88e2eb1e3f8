"""Disk usage of jobs, and what of it can be deleted.

A finished job no longer needs its checkpoints (weights and optimizer state, six to eight times the
size of the weights), its trash and partly written weights. Final weights, samples, logs and metrics
are kept.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from jobspec.records import metrics
from jobspec.records.base import State
from jobspec.storage import fs
from jobspec.storage.layout import (
    AttemptPaths,
    CheckpointPaths,
    JobPaths,
    RootPaths,
    epoch_of,
    is_partial,
)

if TYPE_CHECKING:
    from jobspec.queue.job import Job

QUOTA_VARIABLE = "JOBSPEC_QUOTA_GIB"
PARTS = ("states", "epochs", "model", "eval", "rest")


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """The size of each job's directory, in bytes.

    Attributes:
        states: checkpoints to resume from, and trash.
        epochs: weights saved after each epoch.
        model: final weights.
        eval: samples and scores.
        rest: everything else.
        freeable: what `gc` would delete.
    """

    job: str
    state: str
    states: int
    epochs: int
    model: int
    eval: int
    rest: int
    freeable: int

    @property
    def total(self) -> int:
        return self.states + self.epochs + self.model + self.eval + self.rest


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """Free and total bytes of the root's filesystem; `quota` is from $JOBSPEC_QUOTA_GIB."""

    free: int
    total: int
    quota: int | None = None


def measure_usage(job: Job) -> Usage:
    """Measure a job's directory. Files that vanish during the scan count as empty."""
    parts: dict[str, int] = dict.fromkeys(PARTS, 0)
    for path, size in _files(job.paths.dir):
        parts[_part(path.relative_to(job.paths.dir))] += size
    return Usage(
        job=job.id,
        state=job.state.value,
        **parts,
        freeable=sum(map(size_of, find_deletable(job))),
    )


def _part(path: Path) -> str:
    """The part of `PARTS` that a file below a job's directory belongs to."""
    top, _, *inner = [*path.parts, "", ""]
    if top != "attempts":
        return "eval" if top == JobPaths.HELP else "rest"
    if inner[0] == AttemptPaths.CHECKPOINTS:
        kept = "epochs" if epoch_of(Path(inner[1])) is not None else "rest"
        return "states" if _is_checkpoint(Path(inner[1])) else kept
    kinds = {
        AttemptPaths.TRASH: "states",
        AttemptPaths.FINAL_MODEL: "model",
        AttemptPaths.ADAPTER: "model",
        AttemptPaths.EVAL: "eval",
    }
    return kinds.get(inner[0], "rest")


def find_deletable(job: Job, *, failed: bool = False) -> list[Path]:
    """List the directories that an ended job no longer needs.

    Args:
        failed: include checkpoints of failed and cancelled jobs, which then start from scratch
            when they are retried.
    """
    if job.state in (State.PENDING, State.RUNNING):
        return []
    return find_leftovers(job.paths, states=job.state is State.SUCCEEDED or failed)


def find_leftovers(job: JobPaths, *, states: bool) -> list[Path]:
    """List the trash of a job's attempts and, with `states`, what only a retry would use."""
    directories = [job.help] if states and fs.exists(job.help) else []
    for attempt in metrics.attempts(job):
        directories += [attempt.trash] if fs.exists(attempt.trash) else []
        directories += _checkpoints(attempt) if states else []
    return directories


def _checkpoints(attempt: AttemptPaths) -> list[Path]:
    """List the checkpoints of an attempt, including converted ones and partly written weights."""
    try:
        names = sorted(os.listdir(attempt.checkpoints))  # noqa: PTH208 - dotfiles too
    except (FileNotFoundError, NotADirectoryError):
        return []
    paths = (attempt.checkpoints / name for name in names)
    return [path for path in paths if _is_checkpoint(path)]


def _is_checkpoint(path: Path) -> bool:
    return CheckpointPaths.of(path) is not None or is_partial(path)


def delete(path: Path) -> int:
    """Delete a directory below an attempt. It is renamed first, so that readers never see a part.

    Returns:
        The bytes freed; 0 if another process deleted it first.
    """
    size = size_of(path)
    own = path.name in (AttemptPaths.TRASH, JobPaths.HELP)
    return size if fs.discard(path, into=path.parent if own else path.parent.parent) else 0


def size_of(path: Path) -> int:
    """The bytes of all files below a path."""
    return sum(size for _, size in _files(path))


def measure_room(root: RootPaths) -> Room:
    """Measure the space on the root's filesystem, and read the quota from the environment."""
    filesystem = shutil.disk_usage(root.root)
    quota = _quota()
    return Room(free=filesystem.free, total=filesystem.total, quota=quota)


def _quota() -> int | None:
    with contextlib.suppress(ValueError):
        return int(float(os.environ.get(QUOTA_VARIABLE, "")) * 2**30)
    return None


def cache_size(root: RootPaths) -> int:
    """The bytes in the root's cache."""
    return size_of(root.cache)


def add_up(usages: Iterable[Usage]) -> dict[str, int]:
    """Add up each part over several jobs."""
    every = list(usages)
    return {part: sum(getattr(each, part) for each in every) for part in PARTS}


def _files(path: Path) -> Iterator[tuple[Path, int]]:
    """Yield every file below a path with its size. Links are not followed."""
    unread = [path]
    while unread:
        with contextlib.suppress(OSError), os.scandir(unread.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        unread.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        yield Path(entry.path), entry.stat(follow_symlinks=False).st_size
