"""Checkpoints as directories: listed, carried over from attempt to attempt, pruned. No torch.

A checkpoint is `checkpoints/step-<n>/`, complete once its `COMPLETE` exists (see `integrity`).
`step-<n>.universal/` is one that was converted, so that any number of ranks can load it.
`epoch-<n>/` holds the weights after an epoch.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from jobspec.records import base as records
from jobspec.records.checkpoint import CheckpointManifest, WriteSpeed
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, CheckpointPaths, JobPaths, epoch_of, is_partial
from worker.checkpoints.integrity import find_damage, read_manifest

CHECKPOINTS_KEPT = 2  # per job


def list_checkpoints(attempt: AttemptPaths) -> list[CheckpointPaths]:
    """An attempt's checkpoints, newest first, complete or not."""
    try:
        found = [CheckpointPaths.of(path) for path in attempt.checkpoints.iterdir()]
    except OSError:
        return []
    return sorted((each for each in found if each is not None), key=_age_order, reverse=True)


def newest_complete(attempt: AttemptPaths) -> CheckpointPaths | None:
    """This attempt's newest complete checkpoint; files' sizes are checked, not their hashes."""
    found = (each for each in list_checkpoints(attempt) if find_damage(each, hashes=False) is None)
    return next(found, None)


def expected_save_s(attempt: AttemptPaths) -> float:
    """Seconds the next save will take: what the last one took, else a test write's estimate.

    0 if neither exists yet.
    """
    manifest = _newest_manifest(attempt)
    if manifest is not None:
        return manifest.save_s
    speed = records.read(attempt.write_speed, WriteSpeed)
    return speed.save_s if speed is not None else 0.0


def needs_conversion(attempt: AttemptPaths, world: int) -> bool:
    """Whether the checkpoint that `world` ranks would resume from must be converted first."""
    manifest = _newest_manifest(attempt)
    return manifest is not None and not manifest.fits(world)


def carry_over(job: JobPaths, attempt: AttemptPaths) -> tuple[CheckpointPaths | None, list[str]]:
    """Move the two newest complete checkpoints of earlier attempts into `attempt`.

    The second is for the case that the newest turns out to be damaged when its bytes are read.

    RACE: an attempt whose job was taken away may still be deleting there, so a checkpoint is first
    renamed into this attempt and then verified.

    Returns:
        The newest one (None if there is none), and a line about each damaged one.
    """
    rejected: list[str] = []
    carried: list[CheckpointPaths] = []
    candidates = [
        (_age_order(each), number, each)
        for number in range(1, attempt.number)
        for each in list_checkpoints(job.attempt(number))
        if read_manifest(each) is not None
    ]
    candidates.sort(key=lambda candidate: candidate[:2], reverse=True)
    fs.make_dir(attempt.checkpoints)
    for _, number, each in candidates:
        mine = CheckpointPaths(attempt.checkpoints / each.dir.name)
        if not fs.move_once(each.dir, mine.dir):
            continue
        damage = find_damage(mine, hashes=False)
        if damage is not None:
            rejected.append(f"attempt {number}, {each.dir.name}: {damage}")
            discard(mine.dir, attempt)
            continue
        carried.append(mine)
        if len(carried) == CHECKPOINTS_KEPT:
            break
    return (carried[0] if carried else None), rejected


def prune_checkpoints(attempt: AttemptPaths, keep: int = CHECKPOINTS_KEPT) -> None:
    """Keep this attempt's newest `keep` complete checkpoints and delete older complete ones."""
    complete = [each for each in list_checkpoints(attempt) if read_manifest(each) is not None]
    for each in complete[keep:]:
        discard(each.dir, attempt)


def prune_earlier_attempts(job: JobPaths, attempt: AttemptPaths) -> None:
    """Delete what earlier attempts left for a resume, once `attempt` has its own checkpoint.

    That is checkpoints (complete or not), unfinished directories and trash. Nothing is deleted if
    a later attempt exists: the job then no longer belongs to this one.
    """
    if fs.exists(job.attempt(attempt.number + 1).dir):
        return
    for number in range(1, attempt.number):
        earlier = job.attempt(number)
        left = earlier.checkpoints.glob("*") if earlier.checkpoints.is_dir() else ()
        for path in left:
            if CheckpointPaths.of(path) is not None or is_partial(path):
                discard(path, earlier)
        shutil.rmtree(earlier.trash, ignore_errors=True)


def prune_epoch_weights(attempt: AttemptPaths, keep: int) -> None:
    """Keep the weights of this attempt's newest `keep` epochs."""
    epochs = {number: path for path in attempt.checkpoints.iterdir() if (number := epoch_of(path))}
    for number in sorted(epochs, reverse=True)[keep:]:
        discard(epochs[number], attempt)


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


def discard(path: Path, attempt: AttemptPaths) -> None:
    """Delete a directory of an attempt by way of its trash."""
    fs.make_dir(attempt.trash)
    fs.discard(path, into=attempt.trash)


def _newest_manifest(attempt: AttemptPaths) -> CheckpointManifest | None:
    checkpoint = newest_complete(attempt)
    return read_manifest(checkpoint) if checkpoint is not None else None


def _age_order(checkpoint: CheckpointPaths) -> tuple[int, bool]:
    """Sorts newer checkpoints later; at the same step the converted one, which fits any world."""
    return checkpoint.step, checkpoint.is_universal
