"""What the checks of specs found, as lines and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from jobspec.checks.check import CheckedSpec
from jobspec.cli.output import Cell, Column, Table, duration, plural, say, warn, without_digests
from jobspec.cli.preview import row_lines
from jobspec.estimates import training_time
from jobspec.estimates.evaluation_time import EvaluationEstimate
from jobspec.estimates.training_time import TrainingEstimate
from jobspec.queue.job import Job
from jobspec.records.reports import RowReport
from jobspec.spec.schema import TrainSpec

_NAMED = 2  # files that are named if a finding does not concern all of them


def say_findings(checked: Sequence[CheckedSpec]) -> None:
    """Print warnings, rows, steps and estimates. What several specs share is printed once."""
    for what, files in _by_text([(one, list(one.warnings)) for one in checked]):
        warn(f"{_whose(files, len(checked))}: {what}")
    for what, files in _by_text([(one, list(_lines(one))) for one in checked]):
        say(f"{_whose(files, len(checked))}: {what}")


def _by_text(found: Sequence[tuple[CheckedSpec, list[str]]]) -> list[tuple[str, list[Path]]]:
    """Each different text, and the files that it concerns; in order, the first file's first."""
    files: dict[str, list[Path]] = {}
    for one, texts in found:
        for text in texts:
            files.setdefault(text, []).append(one.file)
    return list(files.items())


def _whose(files: Sequence[Path], count: int) -> str:
    if len(files) == count > 1:
        return "both specs" if count == 2 else f"all {count} specs"
    if len(files) <= _NAMED:
        return ", ".join(map(str, files))
    return f"{len(files)} of {count} specs ({files[0].name} and others)"


def _lines(one: CheckedSpec) -> Iterator[str]:
    if one.rows is not None:
        yield from row_lines(one.rows)
        if one.spec.train is not None:
            yield _steps_line(one.spec.train, one.rows)
    if one.training is not None:
        yield from _training_lines(one.training)
    if one.scoring is not None:
        yield _scoring_line(one.scoring)


def enqueued_table(jobs: Sequence[tuple[CheckedSpec, Job]]) -> Table:
    """One row per job: its rows and steps, its priority, and whether it is new."""
    columns = [Column("job", brief_rank=6), *_COUNTS, Column("priority", 5, right=True)]
    table = Table([*columns, Column("state")])
    names = without_digests([job.id for _, job in jobs])
    for (one, job), name in zip(jobs, names, strict=True):
        state = Cell(f"{job.state}, as before", dim=True) if job.already else Cell("enqueued")
        table.add(Cell(job.id, brief=name), *_counts(one), str(job.priority), state)
    return table


def checked_table(checked: Sequence[CheckedSpec]) -> Table:
    """One row per spec: the job's id, rows and steps, and what training would take."""
    columns = [Column("job", brief_rank=6), *_COUNTS, Column("memory", 5, right=True)]
    table = Table([*columns, Column("time", 5, right=True), Column("check")])
    names = without_digests([one.job for one in checked])
    for one, name in zip(checked, names, strict=True):
        plan = one.training
        memory = None if plan is None else plan.memory_gib
        hours = None if plan is None else plan.hours
        table.add(
            Cell(one.job, brief=name),
            *_counts(one),
            "" if memory is None else f"{memory:.1f} GiB",
            "" if hours is None else duration(hours * 3600),
            Cell("ok", "green"),
        )
    return table


_COUNTS = (Column("rows", 3, right=True), Column("steps", 4, right=True))


def _counts(one: CheckedSpec) -> tuple[str, str]:
    if one.rows is None or one.spec.train is None:
        return "", ""
    steps = training_time.steps(one.spec.train, one.rows)
    return f"{one.rows.rows_train:,}", f"{steps.optimizer_steps:,}"


def _steps_line(train: TrainSpec, rows: RowReport) -> str:
    """`90 optimizer steps`, and the micro-batches of an epoch if the spec says how to cut them."""
    steps = training_time.steps(train, rows)
    line = plural(steps.optimizer_steps, "optimizer step")
    if train.packing == "auto" or steps.passes is None or steps.packed_passes is None:
        return line
    return (
        f"{line}; on one device an epoch is {steps.passes:,} micro-batches, "
        f"{steps.packed_passes:,} with packing"
    )


def _training_lines(training: TrainingEstimate) -> Iterator[str]:
    """`training needs 58.2 GiB …`, `training takes 3h …`: the predictions and their basis."""
    where = f"{training.gpus} × {training.device}"
    if training.memory is None or training.memory_gib is None:
        yield f"memory on {where} can't be predicted without the model's config.json"
        return
    parts = training.memory
    yield (
        f"training needs {training.memory_gib:.1f} GiB of {training.usable_gib:.1f} on "
        f"each of {where} "
        f"(predicted: weights {parts.weights:.1f}, optimizer and gradients {parts.states:.1f}, "
        f"backward pass {parts.backward:.1f} or optimizer step {parts.step:.1f})"
    )
    if (plan := training.micro_batches) is not None:
        cut = "" if plan.tokens is None else f", micro-batches of at most {plan.tokens:,} tokens"
        yield f"recomputes {plan.recomputed_layers} of {plan.layers} layers{cut}"
    if training.hours is None or training.tokens is None or training.tokens_per_second is None:
        return
    how = (
        f"as {training.speed_of} reached"
        if training.speed_of
        else f"assuming {training.assumed_mfu:.0%} MFU"
    )
    yield (
        f"training takes {duration(training.hours * 3600)} for {training.tokens:,} tokens at "
        f"{training.tokens_per_second:,.0f} tok/s, {how}"
    )


def _scoring_line(scoring: EvaluationEstimate) -> str:
    """`scoring generates 79,298,560 tokens at most, …`: tokens, and hours if they are known."""
    if scoring.tokens_at_most is None:
        unknown = [part.benchmark for part in scoring.benchmarks if part.tokens_at_most is None]
        return f"the number of tokens that scoring generates is not known for {', '.join(unknown)}"
    typical = "typical length not known yet"
    if scoring.typical_tokens is not None:
        typical = f"{scoring.typical_tokens:,} at the lengths measured so far"
    hours = "hours not known yet"
    if scoring.tokens_per_second is not None:
        known = [h for h in (scoring.typical_hours, scoring.hours_at_most) if h is not None]
        spelled = " to ".join(duration(h * 3600) for h in known)
        hours = f"{spelled} at the {scoring.tokens_per_second:,.0f} tok/s of {scoring.speed_of}"
    return f"scoring generates {scoring.tokens_at_most:,} tokens at most; {typical}; {hours}"
