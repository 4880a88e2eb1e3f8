"""The phases of a job: their names, their order, and what the queue and its readers must know.

`worker/phases.py` adds what a worker needs to run them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal

from jobspec.records import base as records
from jobspec.records.base import R
from jobspec.records.reports import ConvertReport, EvalReport, PrepareReport, TrainReport
from jobspec.storage.layout import AttemptPaths


@dataclass(frozen=True)
class PhaseInfo(Generic[R]):
    """One phase.

    Attributes:
        report: what it publishes as `<name>.json` when it finishes.
        section: the group of the spec that asks for it.
        keeps: what a phase that was interrupted leaves for the next attempt to continue from.
        optional: it runs only when a checkpoint was saved by another number of ranks.
    """

    name: str
    report: type[R]
    section: Literal["train", "eval"]
    keeps: Literal["nothing", "checkpoints", "samples"] = "nothing"
    optional: bool = False

    @property
    def trains(self) -> bool:
        """Whether it writes a metric row for each training step."""
        return self.keeps == "checkpoints"

    def read(self, attempt: AttemptPaths) -> R | None:
        """The report of this phase in an attempt; None before the phase has finished."""
        return records.read(attempt.done(self.name), self.report)


PREPARE = PhaseInfo("prepare", PrepareReport, "train")
CONVERT = PhaseInfo("convert", ConvertReport, "train", optional=True)
TRAIN = PhaseInfo("train", TrainReport, "train", keeps="checkpoints")
EVAL = PhaseInfo("eval", EvalReport, "eval", keeps="samples")
PHASES: tuple[PhaseInfo[Any], ...] = (PREPARE, CONVERT, TRAIN, EVAL)  # in the order they run
NAMES = tuple(phase.name for phase in PHASES)
# Whose end is progress of the job, so that retries are counted from zero again.
KEEPING = tuple(phase.name for phase in PHASES if phase.keeps != "nothing")


def find(name: str | None) -> PhaseInfo[Any] | None:
    """The phase of this name; None for a name that only another version knows."""
    return next((phase for phase in PHASES if phase.name == name), None)


def trains(name: str | None) -> bool:
    """Whether the phase of this name writes a metric row for each training step."""
    phase = find(name)
    return phase is not None and phase.trains
