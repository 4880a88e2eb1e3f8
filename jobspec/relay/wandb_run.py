"""What W&B should hold of a job: a train run and an eval run, made from the job's files alone."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from jobspec.errors import JobspecError
from jobspec.queue.entries import Job, read_bytes, read_record
from jobspec.records import metrics
from jobspec.records.attempt import ClaimRevoked, End, Result
from jobspec.records.base import FINAL, State
from jobspec.spec import secrets
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, CheckpointPaths

Kind = Literal["train", "eval"]
Ending = Literal["finished", "failed", "preempted"]
DIGEST = "relay/digest"  # in a run's summary: which summary, config and ending it was told last
_KEPT = re.compile(r"bench/|epoch$")
_FACTS = {"attempt", "seq", "time", "phase", "resumed_from"}  # of a row, but no metrics


class RelayError(JobspecError):
    """The relay can't work, or not for one of its runs."""


@dataclass(frozen=True)
class Row:
    """One line of a run's history. `values` are keyed as W&B shows them."""

    attempt: int
    seq: int
    values: dict[str, Any]

    @property
    def identity(self) -> tuple[int, int]:
        return self.attempt, self.seq


@dataclass(frozen=True)
class Run:
    """One run as W&B should have it. `end` is None while its phase goes on.

    `sendable` of its rows may go out now: all, or with `--settled` those that are final.
    """

    job: str
    kind: Kind
    name: str
    group: str
    project: str
    entity: str | None
    config: dict[str, Any]
    rows: list[Row]
    sendable: int
    summary: dict[str, Any]
    end: Ending | None

    def id(self, generation: int = 1) -> str:
        """The run's id: of the job, hence the same for ever; a later one where rows were redone."""
        return f"{self.job}-{self.kind}" + (f"-{generation}" if generation > 1 else "")

    def facts(self) -> dict[str, Any]:
        """What W&B is told of the run as it begins."""
        named = {"name": self.name, "group": self.group, "job_type": self.kind}
        return named | {"project": self.project, "entity": self.entity}

    def digest(self) -> str:
        """Of all that is told beside the rows: where it changes, the run is told again."""
        told = [self.name, self.group, self.config, self.summary, self.end]
        return hashlib.sha256(msgspec.json.encode(told, order="deterministic")).hexdigest()[:16]


def of_job(job: Job, *, settled: bool = False) -> list[Run]:
    """The runs of a job, none for one that nothing has happened to.

    Args:
        job: as seen before its files are read; look again afterwards (see `same_attempt`).
        settled: let only those train rows out that no later attempt can supersede.

    Raises:
        JobspecError: its spec can't be read.
    """
    attempts = metrics.attempts(job.paths)
    if not attempts:
        return []
    spec = job.spec
    config = _config(job, spec, attempts)
    made: list[Run] = []
    if spec.train is not None:
        made.append(_empty(job, spec, "train", config, _train_rows(job)))
    if spec.eval is not None:
        made.append(_empty(job, spec, "eval", config, _eval_rows(job)))
    return [refreshed(run, job, attempts, settled=settled) for run in made]


def refreshed(run: Run, job: Job, attempts: list[AttemptPaths], *, settled: bool) -> Run:
    """The run with what may have changed beside its rows: how it ended, how many may go out."""
    held = job.state is State.PENDING and not _is_bounded(attempts[-1])
    final = _settled(job, run.rows, attempts) if settled else len(run.rows)
    return replace(
        run,
        sendable=0 if held else final,
        summary=_summary(job, run.kind, attempts),
        end=_ending(job, run.kind, attempts),
    )


def is_worth(run: Run) -> bool:
    """Whether the run should be at W&B by now: it has rows, or its phase ended without any."""
    begun = run.end == "finished" or (run.end == "failed" and run.kind == "train")
    return bool(run.rows) or begun


def unchanged(before: Iterable[Job], after: Iterable[Job]) -> set[str]:
    """The jobs whose entries did not move between two looks.

    RACE: rows that an attempt writes once its claim is gone are nobody's. What was read of a job
    that still held the same claim after the reading was written while it held it.
    """
    later = {job.id: (job.state, job.attempt) for job in after}
    return {job.id for job in before if later.get(job.id) == (job.state, job.attempt)}


def _empty(job: Job, spec: JobSpec, kind: Kind, config: dict[str, Any], rows: list[Row]) -> Run:
    enqueued = job.enqueued_at
    stamp = f"{enqueued[:10]}_{enqueued[11:13]}-{enqueued[14:16]}-{enqueued[17:19]}"
    return Run(
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
    manifest: Any = {}
    for attempt in reversed(attempts):
        with contextlib.suppress(msgspec.MsgspecError):
            manifest = msgspec.json.decode(read_bytes(attempt.manifest) or b"")
            break
    whole = {"job": job.id, "spec": msgspec.to_builtins(spec), "manifest": manifest}
    return secrets.redact(whole)


def _train_rows(job: Job) -> list[Row]:
    # Rows without a phase are those of a version that had one phase that wrote any.
    found = metrics.history(job.paths, "train") or metrics.history(job.paths, "")
    return [row_of(row, "train") for row in found if not is_bare(row)]


def _eval_rows(job: Job) -> list[Row]:
    """A row a model that was scored; where an evaluation was done again, the later one's."""
    found: dict[Any, Row] = {}
    for each in metrics.history(job.paths, "eval"):
        row = row_of(each, "eval")
        place = row.values.get("epoch")
        if place in found and _scores(found[place]) == _scores(row):
            continue  # the same samples, judged again
        found.pop(place, None)
        found[place] = row
    return list(found.values())


def _scores(row: Row) -> dict[str, Any]:
    return {k: v for k, v in row.values.items() if k not in ("attempt", "seq", "_timestamp")}


def is_bare(row: metrics.Row) -> bool:
    """Whether a row measures nothing."""
    return row.keys() <= _FACTS | {"step"}


def row_of(row: metrics.Row, kind: Kind) -> Row:
    """A row of `metrics.jsonl` as W&B shows it: names below their phase's, its time as the row's.

    Scores keep their names, and so does the epoch, over which they are drawn.
    """
    values = {
        name if kind == "eval" and _KEPT.match(name) else f"{kind}/{name}": value
        for name, value in row.items()
        if name not in _FACTS and isinstance(value, int | float | str)
    }
    with contextlib.suppress(ValueError):
        values["_timestamp"] = datetime.fromisoformat(str(row.get("time"))).timestamp()
    values |= {"attempt": row["attempt"], "seq": row["seq"]}
    return Row(row["attempt"], row["seq"], values)


def _ending(job: Job, kind: Kind, attempts: list[AttemptPaths]) -> Ending | None:
    done = any(fs.exists(attempt.done(kind)) for attempt in attempts)
    if done or job.state is State.SUCCEEDED:
        return "finished"
    if job.state is State.RUNNING:
        return None
    return "preempted" if job.state is State.PENDING else "failed"


def _summary(job: Job, kind: Kind, attempts: list[AttemptPaths]) -> dict[str, Any]:
    """What stands beside the curves: the final scores, where the job is, why it ended."""
    reason = job.reason
    told: dict[str, Any] = {"job/state": job.state.value, "job/attempt": attempts[-1].number}
    if reason is not None:
        told["job/reason"] = reason.value
    if job.state is State.SUCCEEDED:
        result = read_record(job.paths.attempt(job.attempt).result, Result)
        if result is not None and kind == "eval":
            told |= {key: value for key, value in result.metrics.items() if value is not None}
        elif result is not None:
            told |= {f"train/{k}": v for k, v in result.train.items() if isinstance(v, int | float)}
    return told


def _is_bounded(attempt: AttemptPaths) -> bool:
    """Whether it is known when the last attempt ended, so that its late rows can be told."""
    return read_record(attempt.end, End) is not None or (
        read_record(attempt.taken, ClaimRevoked) is not None
    )


def _settled(job: Job, rows: list[Row], attempts: list[AttemptPaths]) -> int:
    """How many rows are final: up to the newest sealed resume state; all once training is over."""
    if job.state in FINAL or any(fs.exists(attempt.done("train")) for attempt in attempts):
        return len(rows)
    sealed = max((_sealed_step(attempt.checkpoints) for attempt in attempts), default=-1)
    steps = [row.values.get("train/step", 0) for row in rows]
    return next((n for n, step in enumerate(steps) if step > sealed), len(rows))


def _sealed_step(checkpoints: Path) -> int:
    found = (CheckpointPaths.of(checkpoints / name) for name in fs.list_names(checkpoints))
    complete = (each.step for each in found if each is not None and fs.exists(each.manifest))
    return max(complete, default=-1)
