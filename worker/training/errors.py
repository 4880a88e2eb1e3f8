"""How a training run can end early."""

from __future__ import annotations

from jobspec.errors import JobspecError


class NonFiniteLossError(JobspecError):
    """The loss became NaN or infinite, at `step`."""

    def __init__(self, loss: float, step: int) -> None:
        super().__init__(
            f"the loss is {loss} at step {step}",
            hint="lower train.learning_rate, or inspect the rows of that step",
        )
        self.step = step


class StoppedError(Exception):
    """All ranks have agreed to stop here, between two steps."""
