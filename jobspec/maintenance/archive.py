"""Copies ended jobs to another directory, with checksums that were verified on the copy.

A copy is written under a temporary name and renamed when it is complete, so a directory with a
job's name is never partial. `sha256sum -c SHA256SUMS` verifies it later without this program.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobspec.errors import JobspecError, TransitionRefused
from jobspec.queue.job import Job
from jobspec.records.base import FINAL
from jobspec.storage import fs, tempfiles
from jobspec.storage.disk_errors import disk_full
from jobspec.storage.layout import AttemptPaths, JobPaths

SUMS = "SHA256SUMS"
_LEFT_OUT = frozenset(
    (AttemptPaths.CHECKPOINTS, AttemptPaths.TRASH)
)  # checkpoints: of no use once the job has ended
_MODEL = AttemptPaths.FINAL_MODEL
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Archived:
    """The copy of one job.

    Attributes:
        files: number of files in the copy.
        size: bytes of the copy.
        already: a complete copy existed before.
    """

    job: str
    place: str
    files: int
    size: int
    already: bool


def archive(job: Job, destination: Path, *, model: bool = True) -> Archived:
    """Copy a job that has ended, or verify the copy that exists.

    Args:
        job: the job, which is not changed.
        destination: the directory for all copies; each job gets a directory in it.
        model: copy the trained weights too.

    Raises:
        TransitionRefused: the job has not ended.
        JobspecError: the existing copy is damaged or of an earlier attempt, or the new copy does
            not have the bytes that were written.
        DiskFull, OSError: the incomplete copy was deleted.
    """
    if job.state not in FINAL:
        raise TransitionRefused(f"`{job.id}` is {job.state}", hint="archive it when it has ended")
    copy_dir = destination / job.id
    wanted = dict(_wanted(job, model))
    if copy_dir.exists():
        return _compare(job, copy_dir, wanted)
    destination.mkdir(parents=True, exist_ok=True)
    building = tempfiles.beside(copy_dir)
    try:
        with disk_full(copy_dir):
            size = _copy(wanted, building)
            building.rename(copy_dir)
            fs.sync_dir(destination)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Archived(job.id, str(copy_dir), len(wanted), size, already=False)


def check(copy_dir: Path) -> list[str]:
    """List the files of a copy that are missing or damaged. Raises JobspecError."""
    return [name for name, digest in _sums(copy_dir).items() if _digest(copy_dir / name) != digest]


def _wanted(job: Job, model: bool) -> Iterator[tuple[str, Path]]:
    """Yield each name in the copy with its source. Only the last attempt's weights are copied."""
    base, last = job.paths.dir, job.paths.attempt(job.attempt).dir
    for directory, names, files in os.walk(base, followlinks=False):
        here = Path(directory)
        left_out: set[str] = {*_LEFT_OUT, JobPaths.HELP} if here == base else set(_LEFT_OUT)
        if not model or here != last:
            left_out.add(_MODEL)
        names[:] = sorted(name for name in names if name not in left_out and name[0] != ".")
        for name in sorted(files):
            path = here / name
            derived = here == base and path.is_symlink()
            if not derived and name[0] != "." and path.is_file():
                yield str(path.relative_to(base)), path


def _copy(wanted: dict[str, Path], building: Path) -> int:
    """Copy the files and finally write their checksums. Returns the bytes copied."""
    sums: dict[str, str] = {}
    size = 0
    for name, source in wanted.items():
        target = building / name
        target.parent.mkdir(parents=True, exist_ok=True)
        sums[name] = _copy_file(source, target)
        size += target.stat().st_size
    for name, digest in sums.items():
        if _digest(building / name) != digest:
            raise JobspecError("does not have the bytes that were written", file=building / name)
    lines = [f"{digest}  {name}\n" for name, digest in sums.items()]
    fs.publish(building / SUMS, "".join(lines).encode())
    return size


def _copy_file(source: Path, target: Path) -> str:
    """Copy and sync one file. Returns the SHA-256 of the source."""
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as write:
        while block := read.read(_BLOCK):
            digest.update(block)
            write.write(block)
        write.flush()
        os.fsync(write.fileno())
    return digest.hexdigest()


def _compare(job: Job, copy_dir: Path, wanted: dict[str, Path]) -> Archived:
    hint = f"move `{copy_dir}` to another name, then archive again"
    damaged = check(copy_dir)
    if damaged:
        raise JobspecError(
            f"{len(damaged)} files are damaged: {damaged[0]}", file=copy_dir, hint=hint
        )
    sums = _sums(copy_dir)
    # Files that were purged from scratch since do not matter; new or changed ones do.
    changed = [name for name, path in wanted.items() if sums.get(name) != _digest(path)]
    if changed:
        raise JobspecError(
            f"the job has changed since it was copied: {changed[0]}", file=copy_dir, hint=hint
        )
    size = sum((copy_dir / name).stat().st_size for name in sums)
    return Archived(job.id, str(copy_dir), len(sums), size, already=True)


def _sums(copy_dir: Path) -> dict[str, str]:
    try:
        lines = (copy_dir / SUMS).read_text().splitlines()
    except FileNotFoundError as error:
        raise JobspecError(
            f"has no {SUMS}, so it was not made by `jobspec archive`", file=copy_dir
        ) from error
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return None
