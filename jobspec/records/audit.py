"""What an audit of stop and resume found: `jobspec audit resume`."""

from __future__ import annotations

from jobspec.records.answers import ErrorDetails
from jobspec.records.base import UNSET, Record, UnsetType


class Kill(Record, frozen=True, kw_only=True):
    """Where all processes of a training were killed.

    Attributes:
        attempt: the attempt that was killed, counted from 1.
        step: the training step.
        point: what the process of `rank` was doing (`worker.audit.kills.POINTS`).
        resumed_from: the step of the checkpoint from which the next attempt continued; None if it
            began again.
    """

    attempt: int
    step: int
    point: str
    rank: int = 0
    resumed_from: int | None = None


class Divergence(Record, frozen=True, kw_only=True):
    """The first place where the resumed run differs from the uninterrupted one.

    Attributes:
        step: None for the final weights.
        place: a metric, a row's place in its step, or a tensor.
        uninterrupted: the value without kills; for a tensor, the first value that differs.
    """

    step: int | None
    place: str
    uninterrupted: str
    resumed: str


class AuditedPart(Record, frozen=True, kw_only=True):
    """One kind of value that was compared bit by bit.

    Attributes:
        compared: how many values; a tensor counts once.
        largest_difference: over all numbers; None where numbers can't be subtracted.
    """

    name: str
    compared: int
    different: int
    largest_difference: float | None = None
    first: Divergence | None = None


class ResumeAudit(Record, frozen=True, kw_only=True):
    """One training without interruption against the same one killed and resumed.

    Attributes:
        identical: every part was compared and nothing differs.
        steps: of the whole training.
        checkpoints: the steps whose checkpoints were compared.
        shrunk: how the audited spec differs from the given one.
    """

    schema: int = 1
    spec: str
    identical: bool
    ranks: int
    seed: int
    steps: int
    checkpoints: tuple[int, ...] = ()
    kills: tuple[Kill, ...] = ()
    parts: tuple[AuditedPart, ...] = ()
    shrunk: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def first(self) -> tuple[AuditedPart, Divergence] | None:
        """The divergence with the lowest step, and the part that has it."""
        found = [(part, part.first) for part in self.parts if part.first is not None]
        return min(found, key=lambda each: _order(each[1]), default=None)


def _order(found: Divergence) -> float:
    return float("inf") if found.step is None else found.step


class AuditAnswer(Record, frozen=True, kw_only=True):
    """What `worker.audit.resume_command` prints: the audit, or why there is none."""

    audit: ResumeAudit | UnsetType = UNSET
    error: ErrorDetails | UnsetType = UNSET
