"""Read the runs of jobs again and again; of a running job, read only the rows that were added."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from jobspec.queue.job import Job
from jobspec.records import metrics
from jobspec.records.base import State
from jobspec.relay import tracked_run
from jobspec.relay.tracked_run import RunKind, TrackedRun
from jobspec.storage import fs

_decoder = msgspec.json.Decoder(dict[str, Any])


@dataclass
class _Known:
    """What was read of a job. `offset`: bytes of its newest attempt's metrics read so far."""

    entry: tuple[object, ...]
    runs: list[TrackedRun]
    offset: int
    last_seq: int


class Reader:
    """Remembers what it read, so that a pass over running jobs costs only their new rows."""

    def __init__(self, *, settled: bool = False) -> None:
        self._settled = settled
        self._known: dict[str, _Known] = {}

    def read(self, job: Job) -> list[TrackedRun]:
        """The job's runs that should be at W&B by now. Raises JobspecError."""
        attempts = metrics.attempts(job.paths)
        known = self._known.get(job.id)
        entry = (job.state, job.attempt, len(attempts))
        if known is None or known.entry != entry or not self._grown(known, attempts[-1].metrics):
            offset = _whole(attempts[-1].metrics) if attempts else 0
            made = tracked_run.runs_of(job, settled=self._settled)
            known = _Known(entry, made, offset, _last_seq(made, job.attempt))
            if job.state is State.RUNNING and attempts and _has_config(made):
                self._known[job.id] = known
            else:
                self._known.pop(job.id, None)
        else:
            known.runs = [
                tracked_run.refreshed(run, job, attempts, settled=self._settled)
                for run in known.runs
            ]
        return [run for run in known.runs if tracked_run.is_due(run)]

    def _grown(self, known: _Known, path: Path) -> bool:
        """Add the new train rows. False if anything else is new: then the job is read again."""
        train = next((run for run in known.runs if run.kind is RunKind.TRAIN), None)
        data = _from(path, known.offset)
        if not data:
            return True
        if train is None or known.last_seq < 0:
            return False
        added: list[metrics.Row] = []
        for line in data.splitlines():
            try:
                added.append(_decoder.decode(line))
            except msgspec.MsgspecError:
                return False
        attempt = int(path.parent.name)
        fresh = [row for row in added if not _is_old(row, known.last_seq)]
        if not all(_continues(row) for row in fresh):
            return False
        for row in fresh:
            row["attempt"] = attempt
            known.last_seq = row["seq"]
            if not tracked_run.has_no_metrics(row):
                train.rows.append(tracked_run.row_of(row, RunKind.TRAIN))
        known.offset += len(data)
        return True


def _continues(row: metrics.Row) -> bool:
    return (
        row.get("phase") == RunKind.TRAIN
        and type(row.get("seq")) is int
        and "resumed_from" not in row
    )


def _is_old(row: metrics.Row, last: int) -> bool:
    seq = row.get("seq")
    return type(seq) is int and seq <= last


def _last_seq(made: list[TrackedRun], attempt: int) -> int:
    """`seq` of the newest attempt's newest train row; -1 if there is none."""
    train = next((run for run in made if run.kind is RunKind.TRAIN), None)
    if train is None or not train.rows or train.rows[-1].attempt != attempt:
        return -1
    return train.rows[-1].seq


def _has_config(made: list[TrackedRun]) -> bool:
    return all(run.config.get("manifest") for run in made)


def _whole(path: Path) -> int:
    """Where the last complete line ends."""
    try:
        return fs.read(path).rfind(b"\n") + 1
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _from(path: Path, offset: int) -> bytes:
    """The complete lines from `offset` on."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return b""
    return data[: data.rfind(b"\n") + 1]
