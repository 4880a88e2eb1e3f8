"""Where an audited training is killed, and the files through which it is told.

The auditing process writes `Orders` before it starts a worker. The training (observed_training)
stops at the point of the order, says so in `reached`, and waits there to be killed. So a seed names
the same places on every machine, however fast it is.
"""

from __future__ import annotations

import random
from pathlib import Path

from jobspec.records.audit import Kill
from jobspec.records.base import Record

IN_STEP = "in the middle of a step"
BEFORE_SHARDS = "before its part of a checkpoint"
AFTER_SHARDS = "after its part of a checkpoint"
BEFORE_COMPLETE = "before a checkpoint is marked complete"
AFTER_SAVE = "right after a checkpoint was completed"
IN_WEIGHTS = "while an epoch's weights are saved"
# The kinds of points: each of the first kills is of another kind.
POINTS = ((IN_STEP,), (BEFORE_SHARDS, AFTER_SHARDS, BEFORE_COMPLETE), (AFTER_SAVE,), (IN_WEIGHTS,))
_FIRST_RANK_ONLY = (BEFORE_COMPLETE, AFTER_SAVE, IN_WEIGHTS)
MOST_KILLS = 4  # the fifth lost attempt ends a job


class Orders(Record, frozen=True, kw_only=True):
    """What the training is told: after how many steps to save, and where to wait for its end."""

    save_every: int
    kill: Kill | None = None


class AuditPaths:
    """The files of one audited run, beside its root."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.root = directory / "root"
        self.orders = directory / "orders.json"
        self.reached = directory / "reached"
        self.worker_log = directory / "worker.log"
        self.kept = directory / "kept"  # checkpoints, which a job deletes once it has succeeded

    @classmethod
    def of_attempt(cls, attempt: Path) -> AuditPaths:
        """The paths of the run to which an attempt's directory belongs."""
        return cls(attempt.absolute().parents[4])

    def trained(self, attempt: int, rank: int) -> Path:
        """The rows of each step, as a rank trained them."""
        return self.dir / f"trained-{attempt}-{rank}.jsonl"


class TrainedStep(Record, frozen=True, kw_only=True):
    """What one rank trained in one step.

    Attributes:
        rows: the prepared rows of each micro-batch, in order.
        digests: CRC-32 of the tokens and targets of each micro-batch.
    """

    step: int
    rows: tuple[tuple[int, ...], ...]
    digests: tuple[int, ...]


def draw(
    count: int, *, seed: int, ranks: int, steps: int, save_every: int, steps_per_epoch: int
) -> tuple[Kill, ...]:
    """Draw the places of `count` kills.

    Each is in another part of the training between two checkpoints, so that every attempt gets
    further than the one before.
    """
    draws = random.Random(seed)
    saves = range(save_every, steps, save_every)
    chosen = sorted(draws.sample(saves, count))
    kinds = draws.sample(POINTS, min(count, len(POINTS)))
    kills: list[Kill] = []
    for number, save in enumerate(chosen):
        steps_of = range(save - save_every + 1, save + 1)
        point = draws.choice(kinds[number % len(kinds)])
        if point == IN_WEIGHTS:
            ends = [step for step in steps_of if step % steps_per_epoch == 0]
            step = ends[0] if ends else save
            point = point if ends else IN_STEP
        else:
            step = draws.choice(steps_of) if point == IN_STEP else save
        rank = 0 if point in _FIRST_RANK_ONLY else draws.randrange(ranks)
        kills.append(Kill(attempt=number + 1, step=step, point=point, rank=rank))
    return tuple(kills)
