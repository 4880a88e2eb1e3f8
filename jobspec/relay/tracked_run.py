"""What a destination should hold of a job: a train run and an eval run, made from its files."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from jobspec.errors import JobspecError
from jobspec.queue.entries import read_record
from jobspec.queue.job import Job
from jobspec.records import metrics, phases
from jobspec.records.attempt import ClaimRevoked, End, Result
from jobspec.records.base import FINAL, State
from jobspec.records.manifest import Manifest
from jobspec.spec import secrets
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, CheckpointPaths

Ending = Literal["finished", "failed", "preempted"]
DIGEST = "relay/digest"  # key in a run's summary: which summary, config and ending W&B has
_KEPT = re.compile(r"bench/|epoch$")
_BOOKKEEPING = {"attempt", "seq", "time", "phase", "resumed_from"}  # fields that are no metrics


class RunKind(StrEnum):
    """The runs that a job can have at W&B, named after the phase whose rows they hold."""

    TRAIN = "train"
    EVAL = "eval"


class RelayError(JobspecError):
    """The relay cannot work at all, or not for one of its runs."""


@dataclass(frozen=True)
class HistoryRow:
    """One line of a run's history. `values` has the names that W&B shows."""

    attempt: int
    seq: int
    values: dict[str, Any]

    @property
    def identity(self) -> tuple[int, int]:
        return self.attempt, self.seq


@dataclass(frozen=True)
class TrackedRun:
    """One run as W&B should have it.

    Attributes:
        sendable: how many rows may be sent now: all, or with `--settled` those that are final.
        end: None while the phase goes on.
    """

    job: str
    kind: RunKind
    name: str
    group: str
    project: str
    entity: str | None
    config: dict[str, Any]
    rows: list[HistoryRow]
    sendable: int
    summary: dict[str, Any]
    end: Ending | None

    def id(self, generation: int = 1) -> str:
        """The run's id, made from the job's. Each later generation has an id of its own."""
        return f"{self.job}-{self.kind}" + (f"-{generation}" if generation > 1 else "")

    def attributes(self) -> dict[str, Any]:
        """What the run is created with."""
        names = {"name": self.name, "group": self.group, "job_type": self.kind}
        return names | {"project": self.project, "entity": self.entity}

    def digest(self) -> str:
        """Digest of everything sent besides the rows. When it changes, the run is opened again."""
        facts = [self.name, self.group, self.config, self.summary, self.end]
        return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()[:16]


def runs_of(job: Job, *, settled: bool = False) -> list[TrackedRun]:
    """The runs of a job; none for a job without attempts.

    Args:
        job: as read before its files are; look at it again afterwards (see `unchanged`).
        settled: send only train rows that no later attempt can replace.

    Raises:
        JobspecError: its spec is unreadable.
    """
    attempts = metrics.attempts(job.paths)
    if not attempts:
        return []
    spec = job.spec
    config = _config(job, spec, attempts)
    made: list[TrackedRun] = []
    if spec.train is not None:
        made.append(_new_run(job, spec, RunKind.TRAIN, config, _train_rows(job)))
    if spec.eval is not None:
        made.append(_new_run(job, spec, RunKind.EVAL, config, _eval_rows(job)))
    return [refreshed(run, job, attempts, settled=settled) for run in made]


def refreshed(
    run: TrackedRun, job: Job, attempts: list[AttemptPaths], *, settled: bool
) -> TrackedRun:
    """The run with what may have changed besides its rows: its end, and how many may be sent."""
    withheld = job.state is State.PENDING and not _is_bounded(attempts[-1])
    final = _settled(job, run.rows, attempts) if settled else len(run.rows)
    return replace(
        run,
        sendable=0 if withheld else final,
        summary=_summary(job, run.kind, attempts),
        end=_ending(job, run.kind, attempts),
    )


def is_due(run: TrackedRun) -> bool:
    """Whether the run should be at W&B by now: it has rows, or its phase ended without any."""
    ended = run.end == "finished" or (run.end == "failed" and run.kind is RunKind.TRAIN)
    return bool(run.rows) or ended


def unchanged(before: Iterable[Job], after: Iterable[Job]) -> set[str]:
    """The jobs whose entries did not move between two looks.

    RACE: rows that an attempt writes after it lost its claim do not count. If the job is still in
    the same attempt after its files were read, all rows were written under its claim.
    """
    later = {job.id: (job.state, job.attempt) for job in after}
    return {job.id for job in before if later.get(job.id) == (job.state, job.attempt)}


def settings(spec: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float | str]]:
    """The spec's settings that have one value, named like `train.learning_rate`."""
    for name, value in spec.items():
        if isinstance(value, dict):
            yield from settings(cast("dict[str, Any]", value), f"{prefix}{name}.")
        elif isinstance(value, int | float | str) and value != "":
            yield f"{prefix}{name}", value


def _new_run(
    job: Job, spec: JobSpec, kind: RunKind, config: dict[str, Any], rows: list[HistoryRow]
) -> TrackedRun:
    enqueued = job.enqueued_at
    stamp = f"{enqueued[:10]}_{enqueued[11:13]}-{enqueued[14:16]}-{enqueued[17:19]}"
    return TrackedRun(
        job=job.id,
        kind=kind,
        name=f"{spec.name}_{kind}_{stamp}",
        group=spec.tracking.group or f"{spec.name}_{stamp}",
        project=spec.tracking.project,
        entity=spec.tracking.entity,
        config=config,
        rows=rows,
        sendable=0,
        summary={},
        end=None,
    )


def _config(job: Job, spec: JobSpec, attempts: list[AttemptPaths]) -> dict[str, Any]:
    newest_first = (read_record(attempt.manifest, Manifest) for attempt in reversed(attempts))
    manifest = next(filter(None, newest_first), None)
    whole: dict[str, Any] = {
        "job": job.id,
        "spec": msgspec.to_builtins(spec),
        "manifest": {} if manifest is None else msgspec.to_builtins(manifest),
    }
    return secrets.redact(whole)


def _train_rows(job: Job) -> list[HistoryRow]:
    # An earlier version wrote rows without a phase: only training wrote any.
    rows = metrics.history(job.paths, RunKind.TRAIN) or metrics.history(job.paths, "")
    return [row_of(row, RunKind.TRAIN) for row in rows if not has_no_metrics(row)]


def _eval_rows(job: Job) -> list[HistoryRow]:
    """One row per model that was scored; of a repeated evaluation, the later row."""
    by_epoch: dict[Any, HistoryRow] = {}
    for each in metrics.history(job.paths, RunKind.EVAL):
        row = row_of(each, RunKind.EVAL)
        epoch = row.values.get("epoch")
        if epoch in by_epoch and _scores(by_epoch[epoch]) == _scores(row):
            continue  # the same samples, scored again
        by_epoch.pop(epoch, None)
        by_epoch[epoch] = row
    return list(by_epoch.values())


def _scores(row: HistoryRow) -> dict[str, Any]:
    return {k: v for k, v in row.values.items() if k not in ("attempt", "seq", "_timestamp")}


def has_no_metrics(row: metrics.Row) -> bool:
    """Whether a row has no metrics."""
    return row.keys() <= _BOOKKEEPING | {"step"}


def row_of(row: metrics.Row, kind: RunKind) -> HistoryRow:
    """A row of `metrics.jsonl` as W&B shows it: with the phase's name before each metric.

    Scores keep their names, and so does the epoch, which is their x axis.
    """
    values = {
        name if kind is RunKind.EVAL and _KEPT.match(name) else f"{kind}/{name}": value
        for name, value in row.items()
        if name not in _BOOKKEEPING and isinstance(value, int | float | str)
    }
    with contextlib.suppress(ValueError):
        values["_timestamp"] = datetime.fromisoformat(str(row.get("time"))).timestamp()
    values |= {"attempt": row["attempt"], "seq": row["seq"]}
    return HistoryRow(row["attempt"], row["seq"], values)


def _ending(job: Job, kind: RunKind, attempts: list[AttemptPaths]) -> Ending | None:
    done = any(fs.exists(attempt.done(kind)) for attempt in attempts)
    if done or job.state is State.SUCCEEDED:
        return "finished"
    if job.state is State.RUNNING:
        return None
    return "preempted" if job.state is State.PENDING else "failed"


def _summary(job: Job, kind: RunKind, attempts: list[AttemptPaths]) -> dict[str, Any]:
    """The values shown besides the curves: the final scores, the job's state, why it ended."""
    reason = job.reason
    summary: dict[str, Any] = {"job/state": job.state.value, "job/attempt": attempts[-1].number}
    if reason is not None:
        summary["job/reason"] = reason.value
    if job.state is State.SUCCEEDED:
        result = read_record(job.paths.attempt(job.attempt).result, Result)
        if result is not None and kind is RunKind.EVAL:
            summary |= {key: value for key, value in result.metrics.items() if value is not None}
        elif result is not None and result.train:
            report = msgspec.structs.asdict(result.train)
            summary |= {f"train/{k}": v for k, v in report.items() if isinstance(v, int | float)}
    return summary


def _is_bounded(attempt: AttemptPaths) -> bool:
    """Whether it is known when the last attempt ended, so that later rows can be told apart."""
    return read_record(attempt.end, End) is not None or (
        read_record(attempt.revoked, ClaimRevoked) is not None
    )


def _settled(job: Job, rows: list[HistoryRow], attempts: list[AttemptPaths]) -> int:
    """How many rows are final: up to the newest checkpoint; all of them once training is over."""
    trained = any(fs.exists(attempt.done(phases.TRAIN.name)) for attempt in attempts)
    if job.state in FINAL or trained:
        return len(rows)
    newest = max((_newest_complete_step(attempt.checkpoints) for attempt in attempts), default=-1)
    steps = [row.values.get("train/step", 0) for row in rows]
    return next((n for n, step in enumerate(steps) if step > newest), len(rows))


def _newest_complete_step(checkpoints: Path) -> int:
    found = (CheckpointPaths.of(checkpoints / name) for name in fs.list_names(checkpoints))
    complete = (each.step for each in found if each is not None and fs.exists(each.manifest))
    return max(complete, default=-1)
