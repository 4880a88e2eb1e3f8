"""Files in an attempt's directory: its claim, its progress, and how it ended."""

from __future__ import annotations

import msgspec

from jobspec.records import base
from jobspec.records.base import UNSET, Reason, Record, State, UnsetType
from jobspec.records.reports import PrepareReport, ScoringProtocol, TrainReport
from jobspec.storage.layout import AttemptPaths


class ClaimRecord(Record, frozen=True, kw_only=True):
    """`claim.json`: which process claimed this attempt, where and when.

    Attributes:
        token: random, chosen by the process; tells it from others with the same worker id.
    """

    worker: str
    token: str = ""
    host: str = ""
    claimed_at: str = ""


class ClaimRevoked(Record, frozen=True, kw_only=True):
    """`taken.json`: when the claim was reaped or cancelled. Later metric rows do not count."""

    at: str = ""


class Retry(Record, frozen=True, kw_only=True):
    """`retry.json`: a user retried the job after this attempt.

    Attributes:
        state: the final state that the job had then; null if an older version wrote the file.
    """

    at: str = ""
    state: State | None = None


class Progress(Record, frozen=True, kw_only=True):
    """`progress.json`: how far the running phase has come: `done` of `total` `unit`s."""

    phase: str = ""
    done: float = 0
    total: float = 0
    unit: str = ""
    started_at: str = ""
    updated_at: str = ""
    eta_s: float | None = None
    metrics: dict[str, float | None] = msgspec.field(default_factory=dict[str, float | None])

    @property
    def fraction(self) -> float | None:
        """The finished fraction of the phase; None if it is not known."""
        return min(1.0, max(0.0, self.done / self.total)) if self.total > 0 else None

    @property
    def line(self) -> str:
        """`train: 120 of 190 steps, loss 2.91, 2,431 tokens/s`, as logs have it."""
        parts = [f"{self.done:,.0f} of {self.total:,.0f} {self.unit}"]
        for name, title in (("loss", "loss"), ("eval_loss", "held-out loss")):
            if (value := self.metrics.get(name)) is not None:
                parts.append(f"{title} {value:.4g}")
        if (rate := self.metrics.get("tokens_per_second")) is not None:
            parts.append(f"{rate:,.0f} tokens/s")
        return f"{self.phase}: {', '.join(parts)}"


class AttemptEvent(Record, frozen=True, kw_only=True):
    """One line of `events.jsonl`. Fields that an event does not have are left out.

    Attributes:
        event: `start`, `end`, `stop`, `stall`, `inherit`, `converted`, `slow` or `fast`.
        ranks: processes that the phase is started with.
        wall_s: seconds that the phase ran.
        step: of the checkpoint that was converted, which took `seconds` and `size` bytes; or the
            first one that was slow.
        host: the node that became slow, is slow or is fast again, if it is known.
    """

    time: str = ""
    event: str = ""
    phase: str | UnsetType = UNSET
    ranks: int | UnsetType = UNSET
    exit_code: int | UnsetType | None = UNSET
    wall_s: float | UnsetType = UNSET
    message: str | UnsetType = UNSET
    step: int | UnsetType = UNSET
    to_ranks: int | UnsetType = UNSET
    from_ranks: int | UnsetType = UNSET
    seconds: float | UnsetType = UNSET
    size: int | UnsetType = UNSET
    host: str | UnsetType = UNSET


class PhaseError(Record, frozen=True, kw_only=True):
    """`error.json`: why a phase failed, written by the rank that failed.

    Attributes:
        kind: null if only the supervisor can tell, from the circumstances.
        lost_peer: the rank failed because another rank did; that one's error replaces this one.
    """

    phase: str
    kind: Reason | None = Reason.FAILED
    lost_peer: bool = False
    message: str = ""
    hint: str | None = None
    step: int | None = None


class Energy(Record, frozen=True, kw_only=True):
    """Joules that were used on the worker's node. None: not measured.

    Attributes:
        gpu_j: by the job's GPUs.
        cpu_j: by all processors of the node, also for other programs.
    """

    gpu_j: float | None = None
    cpu_j: float | None = None


class PhaseTime(Record, frozen=True, kw_only=True):
    """Seconds of wall time that a phase took in this attempt.

    Attributes:
        kept: the result of an earlier attempt was reused, so `wall_s` is 0.
        energy: None if nothing could be measured, or if the phase ran on several nodes.
    """

    phase: str
    wall_s: float = 0.0
    kept: bool = False
    energy: Energy | None = None


class End(Record, frozen=True, kw_only=True):
    """`end.json`: why an attempt ended. An attempt without one was lost.

    Attributes:
        unexplained: the phase failed and gave no reason of a known kind.
        first_step_s: seconds from the start of the attempt to the first metric row of training.
    """

    reason: Reason
    message: str = ""
    hint: str | None = None
    phase: str | None = None
    exit_code: int | None = None
    step: int | None = None
    worker: str = ""
    host: str = ""
    started_at: str = ""
    ended_at: str = ""
    wall_s: float = 0.0
    phases: tuple[PhaseTime, ...] = ()
    overhead_s: float = 0.0
    unexplained: bool = False
    first_step_s: float | None = None


def read_end(paths: AttemptPaths) -> End | None:
    """Read how an attempt ended; None if it goes on or was lost.

    An attempt that a user cancelled writes no end.json. If the job was retried afterwards, only
    retry.json tells.
    """
    end = base.read(paths.end, End)
    retry = base.read(paths.retry, Retry)
    if retry is None or retry.state is not State.CANCELLED:
        return end
    return msgspec.structs.replace(end or End(reason=Reason.CANCELLED), reason=Reason.CANCELLED)


class Result(Record, frozen=True, kw_only=True):
    """`result.json`: the outcome of a succeeded job.

    Attributes:
        metrics: named as in W&B: `bench/aime24/avg_at_32`.
        train: what `train.json` says; left out if the job trains nothing.
        prepare: what `prepare.json` says; likewise.
        protocol: how each benchmark was measured.
    """

    job: str
    attempt: int
    metrics: dict[str, float | None] = msgspec.field(default_factory=dict[str, float | None])
    train: TrainReport | UnsetType = UNSET
    prepare: PrepareReport | UnsetType = UNSET
    protocol: dict[str, ScoringProtocol] = msgspec.field(default_factory=dict[str, ScoringProtocol])
    overhead_s: float = 0.0
    phases: tuple[PhaseTime, ...] = ()

    def __post_init__(self) -> None:
        # jobspec 0.1 wrote an empty object for a phase that the job does not have.
        if self.train == TrainReport():
            msgspec.structs.force_setattr(self, "train", UNSET)
        if self.prepare == PrepareReport():
            msgspec.structs.force_setattr(self, "prepare", UNSET)
