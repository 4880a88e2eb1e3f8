"""How a training run can end early."""

from __future__ import annotations

from jobspec.errors import JobspecError


class NonFiniteLossError(JobspecError):
    """A loss or the gradient's norm became NaN or infinite, at `step`."""

    def __init__(self, loss: float, step: int, what: str = "the loss") -> None:
        hint = "lower train.learning_rate, or inspect the rows of that step"
        super().__init__(f"{what} is {loss} at step {step}", hint=hint)
        self.step = step


class NonFiniteHeldOutLossError(NonFiniteLossError):
    """The held-out loss is NaN or infinite after `step` steps; after 0, it is the model's own."""

    def __init__(self, loss: float, step: int) -> None:
        super().__init__(loss, step, "the held-out loss")
        if step:
            self.hint = "lower train.learning_rate"
        else:
            self.hint = "nothing is trained yet: check the model's weights and model.dtype"


class StoppedError(Exception):
    """All ranks have agreed to stop here, between two steps."""
