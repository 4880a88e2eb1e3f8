"""Checks that the steps, losses and learning rates of a bundle fit its spec."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from jobspec.bundle.findings import BundleFinding
from jobspec.records import metrics
from jobspec.records.metrics import Row
from jobspec.records.phases import PREPARE, TRAIN
from jobspec.records.reports import PrepareReport, TrainReport
from jobspec.spec.schema import JobSpec, TrainSpec
from jobspec.storage.layout import AttemptPaths, JobPaths

_LAST_RATE = 1e-7  # where Transformers' polynomial schedule ends
_TOLERANCE = 1e-9  # relative: the rates are products of a few floats


def check_training(job: JobPaths, attempt: AttemptPaths, spec: JobSpec) -> Iterator[BundleFinding]:
    """Whether an attempt's training did what the spec says, as far as the numbers tell."""
    train, report = spec.train, TRAIN.read(attempt)
    if train is None or report is None:
        return
    prepared = PREPARE.read(attempt) or PrepareReport()
    rows = metrics.history(job, TRAIN.name)
    steps = [row for row in rows if "loss" in row and "step" in row]
    file = attempt.metrics.relative_to(job.dir).as_posix()
    per_epoch = max(1, math.ceil(prepared.rows_train / train.global_batch_size))
    total = math.ceil(train.num_train_epochs * per_epoch)
    faults = list(_step_faults(steps, report, total))
    what = (
        f"{total:,} steps: {train.num_train_epochs:g} epochs of {prepared.rows_train:,} rows in "
        f"batches of {train.global_batch_size}"
    )
    yield BundleFinding.of("steps", faults, what, file)
    if faults:
        return
    faults = list(_loss_faults(steps, rows, report))
    what = f"first loss {report.loss_first}, last {report.loss}, held-out {report.eval_loss}"
    yield BundleFinding.of("losses", faults, what, file)
    faults = list(_rate_faults(steps, train, total))
    what = f"`{train.lr_scheduler_type}`, as computed for each of {total:,} steps"
    yield BundleFinding.of("learning rates", faults, what, file)
    faults = list(_token_faults(steps, report, prepared, per_epoch))
    what = f"{report.tokens:,}, of which {report.trained_tokens:,} have a loss"
    yield BundleFinding.of("tokens", faults, what, file)


def _step_faults(steps: Sequence[Row], report: TrainReport, total: int) -> Iterator[str]:
    numbers = [row["step"] for row in steps]
    if numbers != list(range(1, len(numbers) + 1)):
        wrong = next((n for n, step in enumerate(numbers, start=1) if n != step), len(numbers))
        yield f"step {wrong} is missing or stands twice"
    if len(numbers) != total:
        yield f"{len(numbers):,} steps; the spec and the number of rows give {total:,}"
    if report.steps != total:
        yield f"the report states {report.steps:,} steps; the spec gives {total:,}"


def _loss_faults(steps: Sequence[Row], rows: Sequence[Row], report: TrainReport) -> Iterator[str]:
    for row in steps:
        if not _is_number(row["loss"]) or row["loss"] < 0:
            yield f"step {row['step']} has the loss {row['loss']!r}"
    held_out = [row["eval_loss"] for row in rows if "eval_loss" in row]
    pairs = {
        "first loss": (report.loss_first, steps[0]["loss"]),
        "last loss": (report.loss, steps[-1]["loss"]),
        "last held-out loss": (report.eval_loss, held_out[-1] if held_out else None),
    }
    for what, (stated, found) in pairs.items():
        if stated is not None and stated != found:
            yield f"the report states {stated!r} as the {what}; the metrics have {found!r}"


def _rate_faults(steps: Sequence[Row], train: TrainSpec, total: int) -> Iterator[str]:
    for row in steps:
        expected = learning_rate(train, row["step"], total)
        found = row.get("learning_rate")
        if found is None or not math.isclose(found, expected, rel_tol=_TOLERANCE):
            yield f"step {row['step']} has the learning rate {found!r}, not {expected!r}"


def _token_faults(
    steps: Sequence[Row], report: TrainReport, prepared: PrepareReport, per_epoch: int
) -> Iterator[str]:
    for name, stated, of_epoch in (
        ("num_tokens", report.tokens, prepared.train.tokens),
        ("trained_tokens", report.trained_tokens, prepared.train.trained_tokens),
    ):
        values = [row.get(name) for row in steps]
        if values[-1] != stated:
            yield f"the report states {stated!r} as `{name}`; the metrics have {values[-1]!r}"
        ends = values[per_epoch - 1 :: per_epoch]
        for epoch, value in enumerate(ends, start=1):
            if value != epoch * of_epoch:
                expected = epoch * of_epoch
                yield f"`{name}` is {value!r} after epoch {epoch}; the rows give {expected:,}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def learning_rate(train: TrainSpec, step: int, total: int) -> float:
    """The learning rate that the metrics state for a step: the next step's, as Transformers has it.

    Source: transformers/optimization.py, with `warmup_steps` of worker.training.trainer_arguments.
    """
    warmup = min(math.ceil(train.warmup_ratio * total), total - 1)
    kind, rate = train.lr_scheduler_type, train.learning_rate
    if kind == "constant":
        return rate
    if step < warmup:
        return rate * (step / max(1, warmup))
    left = max(1, total - warmup)
    if kind == "linear":
        return rate * max(0.0, (total - step) / left)
    if kind == "cosine":
        return rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / left)))
    if kind == "polynomial":
        share = 1 - (step - warmup) / left
        return _LAST_RATE if step > total else (rate - _LAST_RATE) * share + _LAST_RATE
    if kind == "inverse_sqrt":
        scale = warmup or 10_000
        return rate / math.sqrt((step + scale - warmup) / scale)
    return rate
