"""Rows and tokens of a data set, and of the sources of a mixture."""

from __future__ import annotations

import msgspec

from jobspec.records.base import Record


class TokenCounts(Record, frozen=True, kw_only=True):
    """Rows of a split, their tokens, and those tokens that the loss is computed on."""

    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0


class SourceReport(Record, frozen=True, kw_only=True):
    """The rows of one of a mixture's sources.

    Attributes:
        repeat: how often a row is trained on in an epoch, on average.
        train: of an epoch, repeated rows counted as often as they are trained on.
    """

    name: str
    rows_in: int = 0
    rows_selected: int = 0
    dropped: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    repeat: float = 1.0
    train: TokenCounts = TokenCounts()
    eval: TokenCounts = TokenCounts()


class TrainedSource(TokenCounts, frozen=True, kw_only=True):
    """One of a mixture's sources in training: rows and tokens trained on in all steps.

    Attributes:
        eval_loss_first: the loss on its held-out rows before training; null if it has none.
        eval_loss: that of the last epoch.
    """

    eval_loss_first: float | None = None
    eval_loss: float | None = None
