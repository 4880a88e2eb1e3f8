"""What arrived, held against the files: every row by its line, value by value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import msgspec

from jobspec.relay.wandb_run import Row, Run

_PAGE = 1000
Ask = Callable[[int, int], "list[dict[str, Any]] | None"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One run in `relay --verify --json`. Rows by their line (`_step`) in the run's history."""

    run: str
    job: str
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
    def in_words(self) -> str:
        """What is wrong, for people."""
        parts = [self.note] if self.note else []
        for name in ("missing", "repeated", "different"):
            lines: list[int] = getattr(self, name)
            if lines:
                some = ", ".join(map(str, lines[:5])) + ("…" if len(lines) > 5 else "")
                parts.append(f"{len(lines)} {name} (lines {some})")
        return "; ".join(parts) or "not exact"


def verdict(run: Run, id: str, found: Sequence[dict[str, Any]] | None) -> Verdict:
    """Compare a run with the rows that W&B, or an offline run's file, has of it.

    Args:
        run: as the files have it; of a job that goes on, those of its rows that were to be sent.
        id: the run's id.
        found: the rows, each with its `_step`; None where there is no such run.
    """
    rows = run.rows[: run.sendable]
    if found is None:
        note = "is not there"
        missing = list(range(len(rows)))
        return Verdict(
            run=id, job=run.job, expected=len(rows), arrived=0, missing=missing, note=note
        )
    by_step: dict[int, list[dict[str, Any]]] = {}
    for row in found:
        by_step.setdefault(int(row.get("_step", -1)), []).append(row)
    return Verdict(
        run=id,
        job=run.job,
        expected=len(rows),
        arrived=len(found),
        missing=[step for step in range(len(rows)) if step not in by_step],
        repeated=sorted(step for step, same in by_step.items() if len(same) > 1),
        different=list(_different(rows, by_step)),
    )


def pages(ask: Ask, rows: int) -> list[dict[str, Any]] | None:
    """A run's history, in parts; one beyond what is expected finds what is too much."""
    found: list[dict[str, Any]] = []
    for first in range(0, rows + _PAGE, _PAGE):
        part = ask(first, first + _PAGE)
        if part is None:
            return None
        found += part
    return found


def _different(rows: Sequence[Row], by_step: dict[int, list[dict[str, Any]]]) -> Iterator[int]:
    for step, row in enumerate(rows):
        for found in by_step.get(step, []):
            if any(not _same(value, found.get(name)) for name, value in row.values.items()):
                yield step
                break
    yield from (step for step in by_step if not 0 <= step < len(rows))


def _same(ours: Any, theirs: Any) -> bool:
    """Equal, where W&B has NaN and Infinity as words."""
    if isinstance(ours, float) and not math.isfinite(ours):
        if isinstance(theirs, str):
            theirs = float(theirs)
        return str(ours) == str(theirs)
    if isinstance(ours, float) and isinstance(theirs, int | float):
        return math.isclose(ours, cast("float", theirs), rel_tol=1e-9)
    return bool(ours == theirs)
