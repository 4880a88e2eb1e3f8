"""Why attempts end, in words for people: one place, so that every screen says the same."""

from __future__ import annotations

from jobspec.records.base import Reason

REASONS: dict[str, str] = {
    Reason.PREEMPTED.value: "preempted",
    Reason.WALLTIME.value: "out of wall time",
    Reason.LOST.value: "its worker was lost",
    Reason.NODE.value: "bad node",
    Reason.OOM.value: "out of memory",
    Reason.DISK.value: "disk full",
    Reason.FAILED.value: "failed",
    Reason.CORRUPT.value: "spec damaged",
    Reason.NO_PROGRESS.value: "no progress in three attempts",
    Reason.CANCELLED.value: "cancelled",
    Reason.SUCCEEDED.value: "succeeded",
}
# What is no loss needs no words beside the job's state.
LOSSES = REASONS.keys() - {Reason.CANCELLED.value, Reason.SUCCEEDED.value}
_IN_A_ROW = (Reason.PREEMPTED.value, Reason.WALLTIME.value)


def why(reason: str, count: int | None = None, limit: int | None = None) -> str:
    """A reason in words, with what it has used up of its budget: `bad node (2 of 5)`.

    Args:
        reason: a `Reason`'s value.
        count: attempts that count against the budget; none are mentioned where it is 0 or None.
        limit: the attempt at which the job ends; None for what is never counted.
    """
    words = REASONS.get(reason, reason)
    if not count or limit is None:
        return words
    row = " in a row without progress" if reason in _IN_A_ROW else ""
    return f"{words} ({count} of {limit}{row})"
