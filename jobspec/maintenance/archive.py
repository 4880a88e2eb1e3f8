"""Copying ended jobs off scratch, with checksums that were read back from the copy.

A copy is made beside its place and moved there when it is whole, so what bears a job's name is
complete; `sha256sum -c SHA256SUMS` in it says so later, without this program.
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
from jobspec.storage.layout import AttemptPaths

SUMS = "SHA256SUMS"
_LEFT_OUT = frozenset(
    (AttemptPaths.CHECKPOINTS, AttemptPaths.TRASH)
)  # resume states: of no use once the job has ended
_MODEL = AttemptPaths.FINAL_MODEL
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Archived:
    """What came of one job: files and bytes in its copy; `already` if it was there, and whole."""

    job: str
    place: str
    files: int
    size: int
    already: bool


def archive(job: Job, destination: Path, *, model: bool = True) -> Archived:
    """Copy a job that has ended, or look through the copy that is there.

    Args:
        job: it is left as it is.
        destination: a directory for all jobs; each has one of its own in it.
        model: whether to copy the trained weights too.

    Raises:
        TransitionRefused: the job has not ended.
        JobspecError: what lies there is damaged, or of an earlier attempt; or the copy read back
            differs from what was written.
        DiskFull, OSError: nothing is left of this copy.
    """
    if job.state not in FINAL:
        raise TransitionRefused(f"`{job.id}` is {job.state}", hint="archive it when it has ended")
    place = destination / job.id
    wanted = dict(_wanted(job, model))
    if place.exists():
        return _compare(job, place, wanted)
    destination.mkdir(parents=True, exist_ok=True)
    building = tempfiles.beside(place)
    try:
        with fs.disk_full(place):
            size = _copy(wanted, building)
            building.rename(place)
            fs.sync_dir(destination)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Archived(job.id, str(place), len(wanted), size, already=False)


def check(place: Path) -> list[str]:
    """The files of a copy that are missing or differ from its checksums. Raises JobspecError."""
    return [name for name, digest in _sums(place).items() if _digest(place / name) != digest]


def _wanted(job: Job, model: bool) -> Iterator[tuple[str, Path]]:
    """Names in the copy, and the files they are of. Weights are those of the last attempt."""
    base, last = job.paths.dir, job.paths.attempt(job.attempt).dir
    for directory, names, files in os.walk(base, followlinks=False):
        here = Path(directory)
        left_out: set[str] = set(_LEFT_OUT)
        if not model or here != last:
            left_out.add(_MODEL)
        names[:] = sorted(name for name in names if name not in left_out and name[0] != ".")
        for name in sorted(files):
            path = here / name
            derived = here == base and path.is_symlink()
            if not derived and name[0] != "." and path.is_file():
                yield str(path.relative_to(base)), path


def _copy(wanted: dict[str, Path], building: Path) -> int:
    """Copy the files, write their checksums last. Returns the bytes copied."""
    sums: dict[str, str] = {}
    size = 0
    for name, source in wanted.items():
        target = building / name
        target.parent.mkdir(parents=True, exist_ok=True)
        sums[name] = _copy_file(source, target)
        size += target.stat().st_size
    for name, digest in sums.items():
        if _digest(building / name) != digest:
            raise JobspecError("reads back differently than it was written", file=building / name)
    lines = [f"{digest}  {name}\n" for name, digest in sums.items()]
    fs.publish(building / SUMS, "".join(lines).encode())
    return size


def _copy_file(source: Path, target: Path) -> str:
    """Copy and sync one file. Returns the SHA-256 of what was read."""
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as write:
        while block := read.read(_BLOCK):
            digest.update(block)
            write.write(block)
        write.flush()
        os.fsync(write.fileno())
    return digest.hexdigest()


def _compare(job: Job, place: Path, wanted: dict[str, Path]) -> Archived:
    hint = f"move `{place}` away, then archive again"
    damaged = check(place)
    if damaged:
        raise JobspecError(f"{len(damaged)} files are damaged: {damaged[0]}", file=place, hint=hint)
    sums = _sums(place)
    # What scratch has lost since is no difference; what it has anew is.
    fresh = [name for name, path in wanted.items() if sums.get(name) != _digest(path)]
    if fresh:
        raise JobspecError(f"the job has changed since: {fresh[0]}", file=place, hint=hint)
    size = sum((place / name).stat().st_size for name in sums)
    return Archived(job.id, str(place), len(sums), size, already=True)


def _sums(place: Path) -> dict[str, str]:
    try:
        lines = (place / SUMS).read_text().splitlines()
    except FileNotFoundError as error:
        raise JobspecError(f"has no {SUMS}: not made by archive", file=place) from error
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return None
