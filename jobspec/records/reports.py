"""What phases and checks of the worker report when they are done."""

from __future__ import annotations

import msgspec


class DroppedRow(msgspec.Struct, frozen=True):
    """A row that is not trained on; rows are counted from 1."""

    row: int
    kind: str
    reason: str


class RowReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the row check found. Lengths are in tokens; fields of a later version are ignored.

    Attributes:
        dropped: number of dropped rows for each kind of reason.
        first_dropped: the first row of each kind.
        train: `rows`, `tokens` and `trained_tokens` of the rows that are trained on.
        passes: forward passes of one device in an epoch, `unpacked` and `packed`.
    """

    rows_in: int = 0
    rows_selected: int = 0
    rows_train: int = 0
    rows_eval: int = 0
    dropped: dict[str, int] = {}
    first_dropped: list[DroppedRow] = []
    prompts: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    length_percentiles: dict[str, float] = {}
    train: dict[str, int] = {}
    passes: dict[str, int] = {}
    longest_micro_batch: int = 0
    rows_without_thinking: int = 0
    rows_with_think_end_token: int = 0
    think_end_in_template: bool = False
    cached: bool = False
    seconds: float = 0.0
