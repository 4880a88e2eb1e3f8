"""What a destination of rows must be able to do, and which ones there are.

A destination runs in a client process (`client_main.py`), one method for each request. A run there
is a list of lines: line n is row n of the cursor's assignment. So rows arrive exactly once if a
destination tells how many lines it holds, whatever was killed before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from jobspec.spec.tracking_sinks import TENSORBOARD, TRACKIO, WANDB
from jobspec.storage.layout import RootPaths

Answer = dict[str, Any]
Axes = Sequence[Sequence[str]]  # (name of the x-axis, pattern of what is drawn over it)


class RowSink(Protocol):
    """One destination. A method that fails raises; the relay then opens the run again."""

    def hello(self, offline: bool) -> Answer:
        """Import the client and find out where it writes.

        Returns:
            `place`: with the project it names the cursors. `entity`: of the user, if there is one.
            `runs`: how many runs one process may have open. `exact`: False if values are kept with
            32 bits, and text not at all.
        """
        ...

    def count(self, entity: str | None, project: str, ids: list[str]) -> Answer:
        """What has arrived.

        Returns:
            `runs`: for each id its `count` of lines, the `tail` (last row) with `_step`, `attempt`
            and `seq`, the `digest` of its summary and its `state`; None if there is no such run.
        """
        ...

    def open(self, id: str, facts: Answer, config: Answer, axes: Axes, **how: bool) -> Answer:
        """Start or resume a run. Returns its number of lines as `starting_step`."""
        ...

    def rows(self, id: str, first: int, rows: list[Answer]) -> Answer:
        """Add rows to an open run; row k becomes line `first + k`."""
        ...

    def upload_error(self, id: str) -> Answer:
        """`error`: why an open run takes no more rows; None while it does."""
        ...

    def close(self, id: str, summary: Answer, exit_code: int, preempted: bool) -> Answer:
        """Close an open run with its summary. Returns `error` like `upload_error`."""
        ...

    def supersede(self, id: str, by: str, facts: Answer, config: Answer, axes: Axes) -> Answer:
        """Mark or remove a run whose rows were replaced by those of the run `by`."""
        ...

    def history(
        self, entity: str | None, project: str, name: str, first: int, beyond: int
    ) -> Answer:
        """`run`: lines `first` to `beyond - 1` of a run as `rows`, each with its `_step`, and the
        `summary` with its digest. None if there is no such run."""
        ...


# Each module has a class `Client`, made with the client's own directory and its store.
_MODULES = {
    WANDB: "jobspec.relay.sink_wandb:WandbClient",
    TENSORBOARD: "jobspec.relay.sink_tensorboard:TensorBoardClient",
    TRACKIO: "jobspec.relay.sink_trackio:TrackioClient",
}


def row_sink(sink: str, directory: Path, store: Path) -> RowSink:
    """The destination of a sink.

    Args:
        directory: for files of the client that go when it ends.
        store: where a destination without a server keeps its runs.
    """
    module, _, name = _MODULES[sink].partition(":")
    make = cast("Callable[[Path, Path], RowSink]", getattr(import_module(module), name))
    return make(directory, store)


def store_of(sink: str, root: RootPaths, stores: Mapping[str, Path]) -> Path:
    """Where a destination without a server keeps its runs: in the root, or where the user says."""
    return stores[sink].absolute() if sink in stores else root.relay_store(sink)
