"""What one training step did, as the trainer reports it."""

from __future__ import annotations

from dataclasses import dataclass

from jobspec.records.mixture import TokenCounts


@dataclass(frozen=True)
class SlowestNode:
    """The node with the slowest forward passes, and its rate as a part of the others' median."""

    host: str
    share: float


@dataclass(frozen=True)
class StepRecord:
    """One step, over all ranks.

    Attributes:
        lengths: tokens of each row in the global batch.
        sources: its rows and tokens by source, in a mixture.
        wait_s: how long the rank that waited longest for its rows waited.
        peak_memory_gib: the highest of any rank.
        slowest: None where nodes are not compared.
    """

    step: int
    loss: float
    lengths: tuple[int, ...]
    trained_tokens: int
    stop: bool
    save: bool
    wait_s: float = 0.0
    peak_memory_gib: float = 0.0
    sources: tuple[TokenCounts, ...] = ()
    slowest: SlowestNode | None = None
