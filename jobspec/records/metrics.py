"""Metric rows of a job: one JSON object a line, one file an attempt, merged into one history.

An attempt that resumed at step s continues its predecessors up to s: what they wrote beyond it was
superseded. An attempt that says nothing of resuming begins where its own first row stands. What an
attempt wrote after its end (a reaped worker that was only slow) is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from jobspec.records import base as records
from jobspec.records import phases
from jobspec.records.attempt import ClaimRevoked, End
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, JobPaths

Row = dict[str, Any]


_decoder = msgspec.json.Decoder(dict[str, Any])
_TAIL_BYTES = 8192  # some thirty rows
_LATEST = ("loss", "eval_loss", "learning_rate", "grad_norm", "mfu", "epoch")
# A row of these alone measures nothing.
_BARE = {"attempt", "seq", "time", "phase", "step", "resumed_from"}


def read_rows(path: Path) -> list[Row]:
    """The rows of one file. A line that is no JSON object (the last one, torn) is left out.

    A row without a usable `seq` gets the number of its line, so that it can be identified.
    """
    try:
        lines = fs.read(path).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    return list(_decoded(lines))


def _decoded(lines: Iterable[bytes]) -> Iterator[Row]:
    for number, line in enumerate(lines):
        try:
            row = _decoder.decode(line)
        except msgspec.MsgspecError:
            row = _with_nan(line)
        if row is not None:
            if type(row.get("seq")) is not int:
                row["seq"] = number
            yield row


def _with_nan(line: bytes) -> Row | None:
    """A row with `NaN` or `Infinity`, which JSON has no words for but Python writes."""
    if b"NaN" not in line and b"Infinity" not in line:
        return None
    import json  # here, since only such lines need it

    try:
        row = json.loads(line)
    except ValueError:
        return None
    return cast("Row", row) if isinstance(row, dict) else None


def attempts(job: JobPaths) -> list[AttemptPaths]:
    """The attempts that left a directory, oldest first."""
    numbers = (int(name) for name in fs.list_names(job.attempts) if name.isdigit())
    return [job.attempt(number) for number in sorted(numbers)]


def history(job: JobPaths, phase: str | None = None) -> list[Row]:
    """The job's rows in order, as if nothing had ever interrupted it.

    Args:
        phase: only this phase's rows.

    Returns:
        Rows as they were written; of two attempts that wrote the same step, the later one's.
    """
    paths = attempts(job)
    rows = dict(zip([attempt.number for attempt in paths], _ended(paths), strict=True))
    names = {str(row.get("phase", "")): None for mine in rows.values() for row in mine}
    wanted = [name for name in names if phase is None or name == phase]
    return [row for name in wanted for row in _chain(rows, name)]


def _chain(rows: dict[int, list[Row]], phase: str) -> list[Row]:
    """One phase's rows along the attempts that led to the newest one."""
    chains: dict[int, list[Row]] = {0: []}
    newest = 0
    for number, all_rows in rows.items():
        mine = [row for row in _once(all_rows) if str(row.get("phase", "")) == phase]
        if mine:
            before, step = _resumed(mine, newest)
            kept = [row for row in chains.get(before, chains[newest]) if _step(row) <= step]
            chains[number] = kept + [row for row in mine if not row.keys() <= _BARE]
            newest = number
        else:
            chains[number] = chains[newest]
    return chains[newest]


def _resumed(rows: list[Row], previous: int) -> tuple[int, float]:
    """Which attempt these rows continue, and the last of its steps that they leave standing."""
    from jobspec.records.reports import Resumed  # here, so that `status` need not load it

    try:
        resumed = msgspec.convert(rows[0].get("resumed_from"), Resumed)
        return resumed.attempt or previous, resumed.step
    except msgspec.ValidationError:
        pass  # it says nothing of resuming, or nothing we understand: its first step speaks
    steps = [_step(row) for row in rows if "step" in row]
    return previous, min(steps) - 1 if steps else float("inf")


def latest(rows: Iterable[Row], name: str) -> float | None:
    """The last value of a metric; None where no row has it."""
    value = None
    for row in rows:
        found = row.get(name)
        value = found if isinstance(found, int | float) else value
    return value


def _ended(paths: list[AttemptPaths]) -> Iterator[list[Row]]:
    """Each attempt's rows up to its end, and with the attempt they belong to."""
    read = [read_rows(attempt.metrics) for attempt in paths]
    for index, (attempt, rows) in enumerate(zip(paths, read, strict=True)):
        limit = _end_of(attempt, read[index + 1 :])
        for row in rows:
            row["attempt"] = attempt.number  # whose directory it is in, whatever it says
        yield [row for row in rows if not limit or str(row.get("time", "")) <= limit]


def _end_of(attempt: AttemptPaths, later: list[list[Row]]) -> str:
    """When an attempt ended, empty while it runs.

    By its end.json; else when its claim was revoked, or its successor wrote its first row.
    """
    end = records.read(attempt.end, End)
    if end is not None and end.ended_at:
        return end.ended_at
    revoked = records.read(attempt.revoked, ClaimRevoked)
    begun = [str(rows[0].get("time", "~")) for rows in later if rows]
    return min([*begun, revoked.at] if revoked is not None and revoked.at else begun, default="")


def _once(rows: list[Row]) -> Iterator[Row]:
    """A row whose append was repeated after a lost reply carries the same `seq`: it counts once."""
    seen: set[Any] = set()
    for row in rows:
        seq = row.get("seq")
        if seq is None or seq not in seen:
            seen.add(seq)
            yield row


def _step(row: Row) -> float:
    step = row.get("step")
    return float(step) if isinstance(step, int | float) else float("-inf")


def newest(attempt: AttemptPaths, phase: str) -> dict[str, float]:
    """The newest loss and so on of a phase that trains, the speed as a mean of its last steps.

    Rows of other phases, torn lines and values that are not numbers are skipped.
    """
    if not phases.trains(phase):
        return {}
    rows = [row for row in tail(attempt.metrics, _TAIL_BYTES) if row.get("phase") == phase]
    found: dict[str, float] = {}
    for name in _LATEST:
        if values := _numbers(rows, name):
            found[name] = values[-1]
    if speeds := _numbers(rows, "tokens_per_second"):
        found["tokens_per_second"] = math.fsum(speeds) / len(speeds)
    return found


def last_lines(path: Path, most: int) -> list[bytes]:
    """The whole lines that begin within a file's last `most` bytes. It may grow meanwhile."""
    with path.open("rb") as file:
        begin = max(0, file.seek(0, 2) - most)
        file.seek(begin)
        *lines, _torn = file.read().split(b"\n")
    return lines[1:] if begin else lines


def tail(path: Path, most: int) -> Iterator[Row]:
    """The rows in a file's last `most` bytes. The file may be missing, or grow meanwhile."""
    try:
        lines = last_lines(path, most)
    except OSError:
        return
    for line in lines:
        try:
            yield _decoder.decode(line)
        except msgspec.MsgspecError:
            continue


def ends(path: Path, most: int, name: str) -> tuple[list[float], list[float]]:
    """A metric's values in a file's first and in its last `most` bytes, which may overlap."""
    try:
        with path.open("rb") as file:
            *lines, _torn = file.read(most).split(b"\n")
    except OSError:
        return [], []
    return _numbers(list(_decoded(lines)), name), _numbers(list(tail(path, most)), name)


def _numbers(rows: Sequence[Row], name: str) -> list[float]:
    values = [row.get(name) for row in rows]
    return [v for v in values if isinstance(v, int | float)]  # JSON has no words for NaN
