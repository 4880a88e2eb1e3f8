"""Builds checkpoints without training: a directory with files, and its manifest."""

from __future__ import annotations

from typing import Any

from jobspec.records.checkpoint import CheckpointManifest
from jobspec.storage.layout import AttemptPaths, CheckpointPaths
from worker.checkpoints import integrity


def make_checkpoint(
    attempt: AttemptPaths, step: int, *, content: dict[str, bytes] | None = None, **manifest: Any
) -> CheckpointPaths:
    """A complete checkpoint of `attempt`, made by two ranks at ZeRO-2 unless `manifest` differs.

    Args:
        content: files below it, by name; they are hashed unless `manifest` gives `files`.
        manifest: fields of `CheckpointManifest`.
    """
    checkpoint = attempt.checkpoint(step)
    checkpoint.dir.mkdir(parents=True)
    for name, data in (content or {}).items():
        (checkpoint.dir / name).parent.mkdir(exist_ok=True)
        (checkpoint.dir / name).write_bytes(data)
    facts = {"attempt": attempt.number, "step": step, "world": 2, "zero_stage": 2} | manifest
    integrity.publish_manifest(checkpoint, CheckpointManifest(**facts))
    return checkpoint
