"""Resume states on disk: written, sealed, verified, handed on. No torch.

A resume state is a directory `checkpoints/step-<n>/`. `COMPLETE`, written last, lists every file
with its size and SHA-256; a directory without one, or that differs from it, is no state. Files made
by DeepSpeed are pickles, so they are loaded from this job's own directories alone, owner and hash
checked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import msgspec

from jobspec import fs, record
from jobspec.paths import AttemptPaths, JobPaths
from jobspec.record import Record

KEPT = 2  # resume states a job keeps
_BLOCK = 1 << 22


class FileSeal(Record, frozen=True, kw_only=True):
    """One file of a resume state: bytes and SHA-256."""

    size: int
    sha256: str


class Seal(Record, frozen=True, kw_only=True):
    """`COMPLETE`: what a resume state holds and who wrote it."""

    attempt: int
    step: int
    world: int
    zero_stage: int
    save_s: float = 0.0
    files: dict[str, FileSeal]


def step_of(path: Path) -> int | None:
    """The step of a resume state's directory name; None for other names."""
    prefix, _, number = path.name.partition("-")
    return int(number) if prefix == "step" and number.isdigit() else None


def seal(path: Path, *, attempt: int, world: int, zero_stage: int, save_s: float) -> Seal:
    """Hash and fsync everything below `path`, then write its COMPLETE.

    Returns:
        The seal. From its publication on the state is one to resume from.
    """
    files = {
        str(file.relative_to(path)): _hash(file, sync=True)
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "COMPLETE"
    }
    for directory in {file.parent for file in path.rglob("*")} | {path}:
        fs.sync_dir(directory)
    sealed = Seal(
        attempt=attempt,
        step=step_of(path) or 0,
        world=world,
        zero_stage=zero_stage,
        save_s=save_s,
        files=files,
    )
    fs.publish(path / "COMPLETE", record.encode(sealed))
    return sealed


def read_seal(path: Path) -> Seal | None:
    """The seal of a resume state; None where it was never completed."""
    try:
        return msgspec.json.decode((path / "COMPLETE").read_bytes(), type=Seal)
    except (OSError, msgspec.MsgspecError):
        return None


def fault(path: Path, *, hashes: bool) -> str | None:
    """What is wrong with a resume state; None when it is whole.

    Args:
        hashes: read every byte, rather than compare sizes alone.
    """
    sealed = read_seal(path)
    if sealed is None:
        return "has no COMPLETE marker"
    for name, expected in sealed.files.items():
        file = path / name
        try:
            status = file.stat()
        except OSError:
            return f"`{name}` is missing"
        if status.st_size != expected.size:
            return f"`{name}` has {status.st_size} bytes, not {expected.size}"
        if status.st_uid != os.getuid():
            return f"`{name}` belongs to another user"
        if hashes and _hash(file, sync=False) != expected:
            return f"`{name}` differs from its SHA-256"
    return None


def states(attempt: AttemptPaths) -> list[Path]:
    """An attempt's resume states, newest first, complete or not."""
    try:
        found = [path for path in attempt.checkpoints.iterdir() if step_of(path) is not None]
    except OSError:
        return []
    return sorted(found, key=lambda path: step_of(path) or 0, reverse=True)


def newest(attempt: AttemptPaths) -> Path | None:
    """This attempt's newest whole state (sizes checked)."""
    return next((path for path in states(attempt) if fault(path, hashes=False) is None), None)


def take_over(job: JobPaths, attempt: AttemptPaths) -> tuple[Path, list[str]]:
    """Move the two newest whole resume states of earlier attempts into `attempt`.

    RACE: an attempt that was reaped but still runs may be deleting there, so the state is renamed
    into this attempt first and verified afterwards.

    Returns:
        The newest one's new path (or a path that does not exist where there was none), and a line
        about each state that was found damaged. The second is for the case that bytes of the first,
        which are read later, turn out to have changed.
    """
    rejected: list[str] = []
    taken: list[Path] = []
    candidates = [
        (step_of(path) or 0, number, path)
        for number in range(1, attempt.number)
        for path in states(job.attempt(number))
        if read_seal(path) is not None
    ]
    attempt.checkpoints.mkdir(parents=True, exist_ok=True)
    for _, number, path in sorted(candidates, reverse=True):
        mine = attempt.checkpoints / path.name
        if not fs.move_once(path, mine):
            continue
        wrong = fault(mine, hashes=False)
        if wrong is not None:
            rejected.append(f"attempt {number}, {path.name}: {wrong}")
            discard(mine, attempt)
            continue
        taken.append(mine)
        if len(taken) == KEPT:
            break
    return taken[0] if taken else attempt.checkpoints / "none", rejected


def prune(attempt: AttemptPaths, keep: int = KEPT) -> None:
    """Keep this attempt's newest `keep` whole states; what is older goes by way of trash/."""
    whole = [path for path in states(attempt) if read_seal(path) is not None]
    for path in whole[keep:]:
        discard(path, attempt)


def publish_directory(partial: Path, path: Path) -> None:
    """fsync everything below `partial` and give it its final name."""
    for file in partial.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    fs.sync_dir(partial)
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)
    fs.sync_dir(path.parent)


def prune_epochs(attempt: AttemptPaths, keep: int) -> None:
    """Keep the weights of this attempt's newest `keep` epochs."""
    found = [path for path in attempt.checkpoints.iterdir() if path.name.startswith("epoch-")]
    found.sort(key=lambda path: int(path.name.removeprefix("epoch-")), reverse=True)
    for path in found[keep:]:
        discard(path, attempt)


def discard(path: Path, attempt: AttemptPaths) -> None:
    """Delete a directory, renaming it out of every reader's sight first."""
    attempt.trash.mkdir(parents=True, exist_ok=True)
    hidden = attempt.trash / f"{path.name}.{os.getpid()}"
    if fs.move_once(path, hidden):
        shutil.rmtree(hidden, ignore_errors=True)


def _hash(file: Path, *, sync: bool) -> FileSeal:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
        if sync:
            os.fsync(stream.fileno())
        size = stream.tell()
    return FileSeal(size=size, sha256=digest.hexdigest())
