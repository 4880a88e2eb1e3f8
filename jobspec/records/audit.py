"""What audits found: `jobspec audit resume` and `jobspec audit eval`."""

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


class DifferentSample(Record, frozen=True, kw_only=True):
    """A sample that was not the same again.

    Attributes:
        character: the first one that differs, counted from 0; the length of the shorter text where
            the longer one goes on, or that of both where only the number of tokens differs.
    """

    question: str
    sample: int
    character: int


class RedrawnBenchmark(Record, frozen=True, kw_only=True):
    """The samples of one benchmark that were drawn again.

    Attributes:
        samples: of the whole evaluation.
        redrawn: how many of them were drawn again.
        different: how many of those have another text.
        regraded: how many of those are right now and were wrong before, or the other way round;
            null for lm-eval's own tasks, whose grading needs all samples.
        first: the first one that differs.
    """

    name: str
    samples: int
    redrawn: int
    different: int
    regraded: int | None = None
    first: DifferentSample | None = None


class EvalAudit(Record, frozen=True, kw_only=True):
    """Samples of a finished evaluation, drawn once more.

    Attributes:
        identical: every sample that was drawn again has the same text.
        deterministic: the evaluation promised that (`eval.deterministic`).
        environment: what was different in the evaluation: packages, device, engine.
    """

    schema: int = 1
    job: str
    attempt: int
    identical: bool
    deterministic: bool
    seed: int
    engine: str
    benchmarks: tuple[RedrawnBenchmark, ...] = ()
    environment: tuple[str, ...] = ()
    seconds: float = 0.0


class AuditAnswer(Record, frozen=True, kw_only=True):
    """What the programs of `worker.audit` print: the audit, or why there is none."""

    audit: ResumeAudit | UnsetType = UNSET
    redraw: EvalAudit | UnsetType = UNSET
    error: ErrorDetails | UnsetType = UNSET
