"""The progress of a training run, as a checkpoint restores it."""

from __future__ import annotations

import msgspec

from jobspec.records.checkpoint import CheckpointManifest, TrainingProgress
from jobspec.records.reports import RankChange, Resumed
from jobspec.storage.layout import CheckpointPaths


def restore_progress(
    checkpoint: CheckpointPaths, manifest: CheckpointManifest, world: int
) -> TrainingProgress:
    """The progress saved with `checkpoint`, from which `world` ranks now resume."""
    progress = msgspec.json.decode(checkpoint.progress.read_bytes(), type=TrainingProgress)
    progress.resumed_from = Resumed(attempt=manifest.attempt, step=manifest.step)
    if manifest.world != world:
        converted = manifest.converted
        change = RankChange(
            step=manifest.step,
            from_ranks=manifest.world,
            to_ranks=world,
            seconds=converted.seconds if converted else 0.0,
            size=converted.size if converted else 0,
        )
        progress.conversions.append(change)
    return progress
