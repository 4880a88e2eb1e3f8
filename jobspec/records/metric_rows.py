"""The rows of `metrics.jsonl` as phases write them. `metrics` reads and merges them."""

from __future__ import annotations

from typing import Any

import msgspec

from jobspec.records.base import UNSET, Record, UnsetType
from jobspec.records.reports import Resumed


class RowOrigin(Record, frozen=True, kw_only=True):
    """The first fields of every row: who wrote it and when. `seq` counts an attempt's rows."""

    attempt: int
    seq: int
    time: str
    phase: str


class MetricRow(Record, frozen=True, kw_only=True):
    """Base of the rows that a phase appends to `metrics.jsonl`."""


class StepRates(MetricRow, frozen=True, kw_only=True):
    """How fast a training step was: a part of its row.

    Attributes:
        tokens_per_second: without padding, over all devices.
        mfu: model FLOPs utilization; null on devices whose peak is unknown.
        hfu: the same with the recomputation of gradient checkpointing.
        data_wait_share: the part of the step spent waiting for rows.
        slowest_host: on several nodes, the one whose forward passes were the slowest.
        slowest_host_share: its rate as a part of the other nodes' median.
    """

    step_s: float
    tokens_per_second: float
    tokens_per_second_per_device: float
    mfu: float | None
    hfu: float | None
    peak_memory_gib: float
    data_wait_share: float
    slowest_host: str | UnsetType = UNSET
    slowest_host_share: float | UnsetType = UNSET


class StepRow(StepRates, frozen=True, kw_only=True):
    """One training step, over all ranks.

    Attributes:
        num_tokens: tokens of all steps so far, padding not counted; `trained_tokens`: those of
            them that the loss is computed on.
        metrics: in a mixture, `trained_tokens/<source>` so far; each is a field of its own.
    """

    step: int
    epoch: float | None
    loss: float
    learning_rate: float | None
    grad_norm: float | None
    num_tokens: int
    trained_tokens: int
    metrics: dict[str, int] = msgspec.field(default_factory=dict[str, int])


class EvalLossRow(MetricRow, frozen=True, kw_only=True):
    """The loss on the held-out rows.

    Attributes:
        metrics: in a mixture, `eval_loss/<source>`; each is a field of its own.
    """

    step: int
    epoch: float
    eval_loss: float
    metrics: dict[str, float] = msgspec.field(default_factory=dict[str, float])


class ResumeRow(MetricRow, frozen=True, kw_only=True):
    """The first row of an attempt that resumed."""

    resumed_from: Resumed
    step: int


class ScoresRow(MetricRow, frozen=True, kw_only=True):
    """The benchmark scores of one model. The row has each metric as a field of its own.

    Attributes:
        epoch: of the model; left out if it is unknown.
        metrics: named as in W&B: `bench/aime24/avg_at_32`.
    """

    epoch: float | UnsetType = UNSET
    metrics: dict[str, float | None]


def _fields_of_all_rows() -> dict[str, Any]:
    """The type of each field that a row of any kind has; rows of other kinds leave it out."""
    kinds = (RowOrigin, StepRow, EvalLossRow, ResumeRow, ScoresRow)
    fields = [field for kind in kinds for field in msgspec.structs.fields(kind)]
    return {field.name: field.type | None for field in fields if field.name != "metrics"}


AnyRow: Any = msgspec.defstruct(
    "AnyRow", [(name, kind, None) for name, kind in _fields_of_all_rows().items()], frozen=True
)
"""A row of any kind, to check a stranger's rows with. It may have more fields."""


def encode_row(origin: RowOrigin, row: MetricRow) -> bytes:
    """One line of `metrics.jsonl`: a flat object."""
    fields = msgspec.to_builtins(row)
    metrics = fields.pop("metrics", {})
    return msgspec.json.encode(msgspec.to_builtins(origin) | fields | metrics) + b"\n"
