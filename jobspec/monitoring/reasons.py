"""Texts for the reasons for which attempts end, shared by all commands and the web page."""

from __future__ import annotations

from jobspec.records.base import Reason
from jobspec.records.reports import LossChange

REASONS: dict[str, str] = {
    Reason.PREEMPTED.value: "preempted",
    Reason.WALLTIME.value: "out of wall time",
    Reason.LOST.value: "its worker was lost",
    Reason.NODE.value: "bad node",
    Reason.OOM.value: "out of memory",
    Reason.DISK.value: "disk full",
    Reason.FILESYSTEM.value: "filesystem error",
    Reason.FAILED.value: "failed",
    Reason.CORRUPT.value: "spec damaged",
    Reason.NO_PROGRESS.value: "no progress in three attempts",
    Reason.CANCELLED.value: "cancelled",
    Reason.SUCCEEDED.value: "succeeded",
}
# Other reasons are not shown beside the job's state.
LOSSES = REASONS.keys() - {Reason.CANCELLED.value, Reason.SUCCEEDED.value}
_IN_A_ROW = (Reason.PREEMPTED.value, Reason.WALLTIME.value)


def loss_rise(change: LossChange) -> str:
    """What to say of a run whose training made the loss higher."""
    return f"the loss rose from {change.first:.4g} to {change.last:.4g}: lower the learning rate?"


def why(reason: str, count: int | None = None, limit: int | None = None) -> str:
    """Describe a reason, with the used part of its retry budget: `bad node (2 of 5)`.

    Args:
        reason: a `Reason`'s value.
        count: attempts that count against the budget; 0 or None leaves the budget out.
        limit: the count at which the job fails; None if there is no limit.
    """
    text = REASONS.get(reason, reason)
    if not count or limit is None:
        return text
    row = " in a row without progress" if reason in _IN_A_ROW else ""
    return f"{text} ({count} of {limit}{row})"
