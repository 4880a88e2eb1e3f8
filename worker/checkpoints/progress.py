"""What a training run has come to so far, and how it can go wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from jobspec.errors import JobspecError
from worker.checkpoints.integrity import Seal


class NonFiniteLossError(JobspecError):
    """The loss became NaN or infinite, at `step`."""

    def __init__(self, loss: float, step: int) -> None:
        super().__init__(
            f"the loss is {loss} at step {step}",
            hint="lower train.learning_rate, or look at the rows of that step",
        )
        self.step = step


class StoppedError(Exception):
    """All ranks have agreed to stop here, between two steps."""


@dataclass
class Course:
    """What a run has come to so far; saved with every resume state.

    Attributes:
        ended_epochs: epochs whose held-out loss and weights are done, not only their steps.
        saves_s: seconds each resume state took to write.
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

    @classmethod
    def read(cls, state: Path, sealed: Seal, world: int) -> Course:
        """What a run had come to when `state` was saved, taken up by `world` ranks."""
        course = msgspec.json.decode((state / "course.json").read_bytes(), type=cls)
        course.resumed_from = {"attempt": sealed.attempt, "step": sealed.step}
        if sealed.world != world:
            made = sealed.converted
            course.conversions.append(
                {
                    "step": sealed.step,
                    "from_ranks": sealed.world,
                    "to_ranks": world,
                    "seconds": made.seconds if made else 0.0,
                    "size": made.size if made else 0,
                }
            )
        return course
