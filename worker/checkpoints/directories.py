"""Resume states as directories: found, handed on from attempt to attempt, pruned. No torch.

A resume state is `checkpoints/step-<n>/`, sealed by its `COMPLETE` (`seals`). `step-<n>.universal/`
is one that was converted so that any number of ranks can take it up.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from jobspec.records import base as records
from jobspec.records.base import Record
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, JobPaths
from worker.checkpoints.integrity import Seal, fault, read_seal

KEPT = 2  # resume states a job keeps
UNIVERSAL = ".universal"
_STATE = re.compile(r"step-(\d+)(\.universal)?")


class WriteSpeed(Record, frozen=True, kw_only=True):
    """How long the first save will take, by the size of a state and a write that was measured.

    Attributes:
        size: bytes of a state.
        bytes_per_s: of all ranks at once, synced.
    """

    size: int
    bytes_per_s: float
    save_s: float


def step_of(path: Path) -> int | None:
    """The step of a resume state's directory name; None for other names."""
    match = _STATE.fullmatch(path.name)
    return int(match[1]) if match else None


def states(attempt: AttemptPaths) -> list[Path]:
    """An attempt's resume states, newest first, complete or not."""
    try:
        found = [path for path in attempt.checkpoints.iterdir() if step_of(path) is not None]
    except OSError:
        return []
    return sorted(found, key=_order, reverse=True)


def newest(attempt: AttemptPaths) -> Path | None:
    """This attempt's newest whole state (sizes checked)."""
    return next((path for path in states(attempt) if fault(path, hashes=False) is None), None)


def save_s(attempt: AttemptPaths) -> float:
    """Seconds the next save will take: what the last one did, else as measured; 0 if unknown."""
    path = newest(attempt)
    sealed = read_seal(path) if path is not None else None
    if sealed is not None:
        return sealed.save_s
    speed = records.read(speed_file(attempt), WriteSpeed)
    return speed.save_s if speed is not None else 0.0


def speed_file(attempt: AttemptPaths) -> Path:
    """Where training says how fast it can save."""
    return attempt.checkpoints / "write_speed.json"


def misfit(attempt: AttemptPaths, world: int) -> Seal | None:
    """The seal of the state `world` ranks would resume from, if it must be converted first."""
    path = newest(attempt)
    sealed = read_seal(path) if path is not None else None
    return None if sealed is None or sealed.fits(world) else sealed


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
        (_order(path), number, path)
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


def prune_earlier(job: JobPaths, attempt: AttemptPaths) -> None:
    """Once `attempt` has a state of its own, nothing that earlier attempts left is needed.

    That is states (complete or cut off in the middle), half-written weights and trash. Nothing is
    done where a later attempt exists: this one has been reaped then, and is not the job's holder.
    """
    if fs.exists(job.attempt(attempt.number + 1).dir):
        return
    for number in range(1, attempt.number):
        earlier = job.attempt(number)
        left = earlier.checkpoints.glob("*") if earlier.checkpoints.is_dir() else ()
        for path in left:
            if step_of(path) is not None or path.name.endswith(".partial"):
                discard(path, earlier)
        shutil.rmtree(earlier.trash, ignore_errors=True)


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


def _order(path: Path) -> tuple[int, bool]:
    """Newer states sort later; of one step's the converted one, which fits any world."""
    return step_of(path) or 0, path.name.endswith(UNIVERSAL)
