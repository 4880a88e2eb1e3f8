"""What jobs take on disk, what they will take, and what of it can go.

What a finished job needs no more: resume states (weights and optimizer, six to eight times the
size of the weights), trash, half-written weights. Weights, samples, logs and metrics stay.
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
    """What one job's directory holds, in bytes: resume states and trash, epochs' weights, final
    weights, samples and scores, everything else. `freeable` is what `gc` would drop."""

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
    """Bytes free below the root. `quota`: what $JOBSPEC_QUOTA_GIB allows the root to hold."""

    free: int
    total: int
    quota: int | None = None


def usage(job: Job) -> Usage:
    """Measure a job's directory. What vanishes meanwhile counts nothing."""
    parts: dict[str, int] = dict.fromkeys(PARTS, 0)
    for path, size in _files(job.paths.dir):
        parts[_part(path.relative_to(job.paths.dir))] += size
    return Usage(
        job=job.id,
        state=job.state.value,
        **parts,
        freeable=sum(map(size_of, droppable(job))),
    )


def _part(path: Path) -> str:
    """Which part a file below a job's directory belongs to."""
    top, _, *inner = [*path.parts, "", ""]
    if top != "attempts":
        return "rest"
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


def droppable(job: Job, *, failed: bool = False) -> list[Path]:
    """The directories that an ended job needs no more.

    Args:
        failed: of failed and cancelled jobs too, which then begin anew when they are retried.
    """
    if job.state in (State.PENDING, State.RUNNING):
        return []
    return leftovers(job.paths, states=job.state is State.SUCCEEDED or failed)


def leftovers(job: JobPaths, *, states: bool) -> list[Path]:
    """The trash of a job's attempts, and with `states` what a resume would need."""
    found: list[Path] = []
    for attempt in metrics.attempts(job):
        found += [attempt.trash] if fs.exists(attempt.trash) else []
        found += _states(attempt) if states else []
    return found


def _states(attempt: AttemptPaths) -> list[Path]:
    """Resume states, converted ones too, and weights that were never finished."""
    try:
        names = sorted(os.listdir(attempt.checkpoints))  # noqa: PTH208 - dotfiles too
    except (FileNotFoundError, NotADirectoryError):
        return []
    paths = (attempt.checkpoints / name for name in names)
    return [path for path in paths if _is_checkpoint(path)]


def _is_checkpoint(path: Path) -> bool:
    return CheckpointPaths.of(path) is not None or is_partial(path)


def drop(path: Path) -> int:
    """Delete a directory below an attempt, renamed out of readers' sight first.

    Returns:
        The bytes freed: 0 where somebody was faster.
    """
    size = size_of(path)
    attempt = path.parent if path.name == AttemptPaths.TRASH else path.parent.parent
    return size if fs.discard(path, into=attempt) else 0


def size_of(path: Path) -> int:
    """Bytes below a path."""
    return sum(size for _, size in _files(path))


def room(root: RootPaths) -> Room:
    """How much space there is, by the filesystem, and by a quota that it does not tell of."""
    found = shutil.disk_usage(root.root)
    quota = _quota()
    return Room(free=found.free, total=found.total, quota=quota)


def _quota() -> int | None:
    with contextlib.suppress(ValueError):
        return int(float(os.environ.get(QUOTA_VARIABLE, "")) * 2**30)
    return None


def cache(root: RootPaths) -> int:
    """Bytes of the root's cache."""
    return size_of(root.cache)


def total(found: Iterable[Usage]) -> dict[str, int]:
    """The sum of each part."""
    every = list(found)
    return {part: sum(getattr(one, part) for one in every) for part in PARTS}


def _files(path: Path) -> Iterator[tuple[Path, int]]:
    """Every file below a path with the bytes it takes; links are not followed."""
    left = [path]
    while left:
        with contextlib.suppress(OSError), os.scandir(left.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        left.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        yield Path(entry.path), entry.stat(follow_symlinks=False).st_size
