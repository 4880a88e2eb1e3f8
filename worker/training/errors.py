"""How a training run can end early."""

from __future__ import annotations

from jobspec.errors import JobspecError


class NonFiniteLossError(JobspecError):
    """A loss or the gradient's norm became NaN or infinite, at `step`."""

    def __init__(self, loss: float, step: int, what: str = "the loss") -> None:
        super().__init__(
            f"{what} is {loss} at step {step}",
            hint="lower train.learning_rate, or inspect the rows of that step",
        )
        self.step = step


class StoppedError(Exception):
    """All ranks have agreed to stop here, between two steps."""
