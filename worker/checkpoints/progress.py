"""The counters of a training run, saved with every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from jobspec.records.checkpoint import CheckpointManifest
from jobspec.storage.layout import CheckpointPaths


@dataclass
class TrainingProgress:
    """What a training run has done so far, over all of its attempts.

    Attributes:
        ended_epochs: epochs whose held-out loss and weights are done, not only their steps.
        saves_s: seconds each checkpoint took to write.
        conversions: for each change of the number of ranks: step, ranks before and after, seconds
            and bytes of the conversion (both 0 where none was needed).
    """

    eval_loss_first: float | None = None
    eval_loss: float | None = None
    loss: float | None = None
    tokens: int = 0
    trained_tokens: int = 0
    train_s: float = 0.0
    peak_memory_gib: float | None = None
    resumed_from: dict[str, int] | None = None
    saves_s: list[float] = field(default_factory=list)
    ended_epochs: int = 0
    conversions: list[dict[str, float]] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.train_s if self.train_s else None

    @classmethod
    def read(
        cls, checkpoint: CheckpointPaths, manifest: CheckpointManifest, world: int
    ) -> TrainingProgress:
        """The progress saved with `checkpoint`, from which `world` ranks now resume."""
        progress = msgspec.json.decode(checkpoint.progress.read_bytes(), type=cls)
        progress.resumed_from = {"attempt": manifest.attempt, "step": manifest.step}
        if manifest.world != world:
            converted = manifest.converted
            progress.conversions.append(
                {
                    "step": manifest.step,
                    "from_ranks": manifest.world,
                    "to_ranks": world,
                    "seconds": converted.seconds if converted else 0.0,
                    "size": converted.size if converted else 0,
                }
            )
        return progress
