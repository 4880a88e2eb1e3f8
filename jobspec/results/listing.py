"""Runs and their results for Python and notebooks: plain rows for pandas, polars or nothing.

Nothing here needs pandas or polars: both make a data frame of a list of dictionaries.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex, overload

from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records import metrics, phases
from jobspec.results import formats, notebook, table
from jobspec.results.table import ResultRow
from jobspec.spec.schema import JobSpec

Row = dict[str, Any]


class RunTable(list[Row]):
    """Runs as plain dictionaries with the same keys, which a notebook shows as a table.

    The keys are `job`, `name`, `model`, `learning_rate`, `num_train_epochs`, `attempt`, `state`,
    `why`, `loss`, `eval_loss`; each setting on which the runs disagree, as `train.seed`; and for
    each benchmark its score and 95 % interval, as `aime24`, `aime24_low` and `aime24_high`. What a
    run does not have is None. With the cost, there are its fields too; energy that was not measured
    is None.
    """

    def __init__(self, rows: Sequence[ResultRow], flat: Iterable[Row] | None = None) -> None:
        super().__init__(formats.flat_rows(rows) if flat is None else flat)
        self._rows = tuple(rows)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> RunTable: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Row | RunTable:
        if isinstance(index, slice):
            return RunTable(self._rows[index], super().__getitem__(index))
        return super().__getitem__(index)

    def _repr_html_(self) -> str:
        """The table as a notebook shows it: like the report page's table of runs."""
        return notebook.to_html(self._rows)


@dataclass(frozen=True)
class Run:
    """One run: a job and its files."""

    job: Job

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def state(self) -> str:
        """`pending`, `running`, `succeeded`, `failed` or `cancelled`."""
        return self.job.state.value

    @property
    def spec(self) -> JobSpec:
        """The spec. Raises SpecError or JobspecError if it is damaged."""
        return self.job.spec

    @property
    def final_model(self) -> Path | None:
        """The directory of the trained model; None if there is none."""
        path = self.job.paths.final_model
        return path if path.is_dir() else None

    def metrics(self) -> list[Row]:
        """The rows of training in order, as if nothing had ever interrupted it.

        A training step has `step`, `epoch`, `loss` (nats a token), `learning_rate`, `grad_norm`,
        `tokens_per_second` and more; a row with the held-out loss has `eval_loss`. All rows have
        the same keys; what a row does not have is None.
        """
        trained = (name for name in phases.NAMES if phases.trains(name))
        rows = [row for name in trained for row in metrics.history(self.job.paths, name)]
        keys = dict.fromkeys(key for row in rows for key in row)
        return [{key: row.get(key) for key in keys} for row in rows]


def results(root: str | Path | None = None, *jobs: str, cost: bool = False) -> RunTable:
    """List the runs of a root with their results.

    Args:
        root: the queue's directory; by default $JOBSPEC_ROOT, or `jobspec-root`.
        jobs: ids, unique prefixes or globs; by default every job that has started.
        cost: add what each run cost: `gpu_h`, `lost_gpu_h`, `kwh`, `j_per_token` and more.

    Raises:
        RootError: there is no queue.
        JobNotFound: one of `jobs` matches nothing.
    """
    return RunTable(table.all_rows((run.job for run in runs(root, *jobs)), cost=cost))


def runs(root: str | Path | None = None, *jobs: str) -> list[Run]:
    """List the runs of a root in the order in which they were enqueued; arguments as `results`."""
    queue = Queue(Path(root or os.environ.get("JOBSPEC_ROOT") or "jobspec-root"), write=False)
    chosen = queue.select(jobs) if jobs else filter(table.was_started, queue.jobs())
    return [Run(job) for job in sorted(chosen, key=lambda job: (job.enqueued_at, job.id))]
