"""`relay --verify`: compare what arrived with the files, each row by its line, value by value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import msgspec

from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.relay import tracked_run
from jobspec.relay.client import ClientProcess, connect
from jobspec.relay.cursor import Cursors, SentRows, target
from jobspec.relay.job_sinks import JobSinks
from jobspec.relay.offline import Offline
from jobspec.relay.online import RelayOptions
from jobspec.relay.row_sink import store_of
from jobspec.relay.tracked_run import DIGEST, HistoryRow, TrackedRun
from jobspec.spec.tracking_sinks import WANDB

_PAGE = 1000
_LARGEST_FLOAT32 = 3.4e38
Ask = Callable[[int, int], "list[dict[str, Any]] | None"]


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """One run in `relay --verify --json`. Rows by their line (`_step`) in the run's history."""

    run: str
    job: str
    sink: str = WANDB
    expected: int
    arrived: int
    missing: list[int] = []
    repeated: list[int] = []
    different: list[int] = []
    note: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether the run is what the files say."""
        wrong = self.missing or self.repeated or self.different or self.note
        return not wrong and self.expected == self.arrived

    @property
    def summary(self) -> str:
        """What is wrong, in one line."""
        parts = [self.note] if self.note else []
        for name in ("missing", "repeated", "different"):
            lines: list[int] = getattr(self, name)
            if lines:
                some = ", ".join(map(str, lines[:5])) + ("…" if len(lines) > 5 else "")
                parts.append(f"{len(lines)} {name} (lines {some})")
        return "; ".join(parts) or "not exact"


def verify(
    queue: Queue, jobs: list[Job], *, offline: bool, options: RelayOptions
) -> list[Verification]:
    """Compare every run of these jobs, at each destination.

    Raises:
        RelayError: a destination cannot be used.
    """
    sinks = JobSinks(options.sinks)
    if offline:
        client = connect(offline=True)
        try:
            wanted = list(sinks.only(jobs, WANDB))
            return _verify_files(Offline(queue.paths, client, lambda text: None), client, wanted)
        finally:
            client.kill()
    verifications: list[Verification] = []
    for sink in sinks.named(jobs) or options.sinks or (WANDB,):
        client = connect(sink=sink, store=store_of(sink, queue.paths, options.stores))
        try:
            verifications += [
                _verify_online(queue, client, sink, run, options)
                for job in sinks.only(jobs, sink)
                for run in tracked_run.runs_of(job, settled=options.settled)
                if tracked_run.is_due(run)
            ]
        finally:
            client.kill()
    return verifications


def compare(
    run: TrackedRun, id: str, arrived: Sequence[dict[str, Any]] | None, *, exact: bool = True
) -> Verification:
    """Compare a run with the rows that a destination, or the file of an offline run, has of it.

    Args:
        run: as the files have it; of a job that goes on, only the rows that were due to be sent.
        id: the run's id.
        arrived: the rows, each with its `_step`; None if there is no such run.
        exact: False if the destination keeps numbers with 32 bits, and no text.
    """
    rows = run.rows[: run.sendable]
    if arrived is None:
        missing = list(range(len(rows)))
        return Verification(
            run=id,
            job=run.job,
            expected=len(rows),
            arrived=0,
            missing=missing,
            note="the run does not exist",
        )
    by_step: dict[int, list[dict[str, Any]]] = {}
    for row in arrived:
        by_step.setdefault(int(row.get("_step", -1)), []).append(row)
    return Verification(
        run=id,
        job=run.job,
        expected=len(rows),
        arrived=len(arrived),
        missing=[step for step in range(len(rows)) if step not in by_step],
        repeated=sorted(step for step, same in by_step.items() if len(same) > 1),
        different=list(_different(rows, by_step, exact)),
    )


def read_history(ask: Ask, rows: int) -> list[dict[str, Any]] | None:
    """Read a run's history page by page, one page more than expected to find surplus rows."""
    history: list[dict[str, Any]] = []
    for first in range(0, rows + _PAGE, _PAGE):
        part = ask(first, first + _PAGE)
        if part is None:
            return None
        history += part
    return history


def _verify_online(
    queue: Queue, client: ClientProcess, sink: str, run: TrackedRun, options: RelayOptions
) -> Verification:
    entity = options.entity or run.entity or client.hello["entity"]
    project = options.project or run.project
    cursors = Cursors(queue.paths, target(client.hello["place"], entity, project))
    sent = cursors.load(run.job).runs.get(run.kind, SentRows())
    id, digest = run.id(sent.generation), ""
    if run.end is None:  # rows that were not sent yet are not missing
        run = replace(run, sendable=min(run.sendable, sent.assigned))

    def ask(first: int, beyond: int) -> list[dict[str, Any]] | None:
        nonlocal digest
        part = {"first": first, "beyond": beyond}
        answer = client.ask("history", entity=entity, project=project, name=id, **part)["run"]
        if answer is None:
            return None
        digest = str(answer["summary"].get(DIGEST))
        return answer["rows"]

    rows = read_history(ask, run.sendable)
    found = compare(run, id, rows, exact=client.hello["exact"])
    verification = msgspec.structs.replace(found, sink=sink)
    if run.end is None or verification.note or digest == run.digest():
        return verification
    return msgspec.structs.replace(verification, note="the summary is out of date")


def _verify_files(offline: Offline, client: ClientProcess, jobs: list[Job]) -> list[Verification]:
    verifications: list[Verification] = []
    for job in jobs:
        for run, path in offline.written(job):
            rows = client.ask("read", path=str(path))["rows"] if path.exists() else None
            verifications.append(compare(run, path.stem.removeprefix("run-"), rows))
    return verifications


def _different(
    rows: Sequence[HistoryRow], by_step: dict[int, list[dict[str, Any]]], exact: bool
) -> Iterator[int]:
    same = _same if exact else _nearly_same
    for step, row in enumerate(rows):
        for arrived in by_step.get(step, []):
            if any(not same(value, arrived.get(name)) for name, value in row.values.items()):
                yield step
                break
    yield from (step for step in by_step if not 0 <= step < len(rows))


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two values are equal; W&B returns NaN and Infinity as strings."""
    if isinstance(ours, float) and not math.isfinite(ours):
        if isinstance(theirs, str):
            theirs = float(theirs)
        return str(ours) == str(theirs)
    if isinstance(ours, float) and isinstance(theirs, int | float):
        return math.isclose(ours, cast("float", theirs), rel_tol=1e-9)
    return bool(ours == theirs)


def _nearly_same(ours: Any, theirs: Any) -> bool:
    """The same for a destination that keeps numbers with 32 bits, and no text."""
    if not isinstance(ours, int | float):
        return True
    if not isinstance(theirs, int | float):
        return False
    if math.isnan(ours) or abs(ours) > _LARGEST_FLOAT32:
        return str(ours) == str(theirs) or (math.isinf(theirs) and ours * theirs > 0)
    return math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-37)
