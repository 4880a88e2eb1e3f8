"""The destinations that `tracking.sinks` can name, and the package that each of them needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

WANDB = "wandb"
TENSORBOARD = "tensorboard"
TRACKIO = "trackio"


@dataclass(frozen=True)
class Sink:
    """A destination of the relay's rows.

    Attributes:
        where: how a message says that rows are there.
        package: the Python package that the relay needs for it.
        extra: the extra of this project that installs the package.
    """

    where: str
    package: str
    extra: str

    @property
    def command(self) -> str:
        """The command that installs what it needs."""
        return f"pip install 'jobspec[{self.extra}]'"


SINKS = {
    WANDB: Sink("at W&B", "wandb", "relay"),
    TENSORBOARD: Sink("in TensorBoard", "tensorboard", "tensorboard"),
    TRACKIO: Sink("in trackio", "trackio", "trackio"),
}


STORED = (TENSORBOARD, TRACKIO)  # without a server: they write to a directory


def missing(names: Iterable[str]) -> Iterator[str]:
    """A message for each of these sinks whose package is not installed here."""
    for name in names:
        sink = SINKS[name]
        if find_spec(sink.package) is None:
            what = f"`tracking.sinks` names `{name}`, and {sink.package} is not installed here"
            yield f"{what}; where the relay runs: {sink.command}"
