"""`jobspec validate`, `enqueue` and `schema`: check specs and enqueue them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from jobspec.checks import check
from jobspec.checks.check import CheckedSpec
from jobspec.checks.machine import check_machine
from jobspec.cli.common import (
    JSON_KEY,
    common,
    create_option,
    create_queue,
    current_root,
    priority_option,
    wants_json,
)
from jobspec.cli.disk import say_disk
from jobspec.cli.output import complain, duration, emit, interactive, plural, say, warn
from jobspec.cli.preview import row_lines
from jobspec.errors import JobspecError
from jobspec.estimates import disk_need, training_time
from jobspec.estimates.evaluation_time import EvaluationEstimate
from jobspec.estimates.training_time import TrainingEstimate
from jobspec.maintenance import disk as space
from jobspec.models.devices import Device
from jobspec.models.devices import device as find_device
from jobspec.queue.job import Job
from jobspec.records.reports import RowReport
from jobspec.spec import parsing
from jobspec.spec.schema import TrainSpec
from jobspec.storage.layout import RootPaths

specs_argument = click.argument(
    "files",
    metavar="SPEC...",
    nargs=-1,
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
)
row_check_option = click.option(
    "--row-check/--no-row-check",
    default=True,
    help="Check every row of the data, and lm-eval's tasks, with the worker's code.  "
    "[default: --row-check]",
)


@click.command()
@specs_argument
@row_check_option
@click.option(
    "--device",
    metavar="NAME",
    help="Also predict memory and hours on this GPU, e.g. h100-94 or a100-80.",
)
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    help="Number of GPUs to predict for.  [default: resources.gpus of the spec, or 1]",
)
@common
def validate(
    files: tuple[Path, ...], row_check: bool, device: str | None, gpus: int | None
) -> None:
    """Make all checks of `jobspec enqueue` without enqueueing anything.

    \b
    jobspec validate specs/*.json
    jobspec validate specs/qwen3-8b-lr1e-5.json --device h100-94 --gpus 4

    With --device it refuses a spec that does not fit into the GPUs' memory, and suggests settings
    that do.
    """
    if gpus is not None and device is None:
        raise click.UsageError("--gpus needs --device.")
    checked = check_all(files, row_check, None if device is None else find_device(device), gpus)
    if wants_json():
        return emit({"specs": [checked_json(one) for one in checked]})
    for one in checked:
        click.echo(f"{one.file}: ok, {one.job}")
    return None


@click.command()
@specs_argument
@row_check_option
@priority_option
@create_option
@common
def enqueue(files: tuple[Path, ...], row_check: bool, priority: int) -> None:
    """Check specs, put them into the queue, and print the jobs' ids.

    \b
    jobspec enqueue specs/*.json
    jobspec enqueue --priority 90 specs/qwen3-8b-lr1e-5.json

    If one spec fails a check, none is enqueued. A spec that was enqueued before is not enqueued
    again; its id is printed.
    """
    create_queue()
    jobs = enqueue_all(check_all(files, row_check), priority)
    disk = disk_need.together((one.spec for one, job in jobs if not job.already), current_root())
    room = space.measure_room(RootPaths(current_root()))
    if wants_json():
        made = [
            {"job": job.id, "already": job.already, "state": job.state, **checked_json(one)}
            for one, job in jobs
        ]
        return emit({"jobs": made, "disk": disk, "room": room})
    say_disk(disk, room)
    for _, job in jobs:
        if job.already:
            say(f"{job.id} was enqueued before and is {job.state}")
        click.echo(job.id)
    return None


@click.command()
@common
def schema() -> None:
    """Print the JSON Schema of a spec, for editors and other languages.

    \b
    jobspec schema > jobspec.schema.json
    """
    click.echo(msgspec.json.format(msgspec.json.encode(parsing.json_schema()), indent=2))


def enqueue_all(checked: Sequence[CheckedSpec], priority: int) -> list[tuple[CheckedSpec, Job]]:
    """Put checked specs into the queue, and create the root if it does not exist."""
    queue = create_queue()
    jobs: list[tuple[CheckedSpec, Job]] = []
    try:
        for one in checked:
            job = queue.enqueue(one.spec, priority, checked=True)
            jobs.append((one, job))
    except KeyboardInterrupt:
        say(f"stopped: {len(jobs)} of {plural(len(checked), 'spec')} are enqueued")
        raise
    return jobs


def check_all(
    files: Sequence[Path], row_check: bool, device: Device | None = None, gpus: int | None = None
) -> list[CheckedSpec]:
    """Check every file and report the errors of each; exit with 1 unless all pass.

    Args:
        files: specs.
        row_check: also render and check the rows of their data.
        device: also predict memory and hours of training on this device.
        gpus: the number of devices to predict for.
    """
    for warning in check_machine():
        warn(warning)
    checked: list[CheckedSpec] = []
    failed: list[JobspecError] = []
    for file in files:
        try:
            one = check.check(file, current_root(), rows=row_check, tell=_announce)
            if device is not None:
                one = check.with_training_estimate(one, current_root(), device, gpus)
            checked.append(one)
            say_findings(one)
        except JobspecError as error:
            failed.append(error)
    if failed:
        context = click.get_current_context()
        complain(failed, as_json=bool(context.meta.get(JSON_KEY)))
        if len(files) > 1:
            say(f"{plural(len(failed), 'spec')} of {len(files)} refused")
        context.exit(1)
    return checked


def _announce(what: str) -> None:
    """Name a slow step before it starts, if stdout is a terminal."""
    if interactive():
        say(f"{what} …")


def say_findings(one: CheckedSpec) -> None:
    """Print what the checks found: warnings, rows, steps, and the estimates."""
    for warning in one.warnings:
        warn(f"{one.file}: {warning}")
    if one.rows is not None:
        for line in row_lines(one.rows):
            say(f"{one.file}: {line}")
        if one.spec.train is not None:
            say(f"{one.file}: {_steps_line(one.spec.train, one.rows)}")
    if one.training is not None:
        for line in _training_lines(one.training):
            say(f"{one.file}: {line}")
    if one.scoring is not None:
        say(f"{one.file}: {_scoring_line(one.scoring)}")


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


def checked_json(one: CheckedSpec) -> dict[str, Any]:
    """What `validate --json` and `enqueue --json` print about one spec."""
    return {
        "file": str(one.file),
        "id": one.job,
        "name": one.spec.name,
        "warnings": one.warnings,
        "rows": one.rows,
        "steps": None
        if one.rows is None or one.spec.train is None
        else training_time.steps(one.spec.train, one.rows),
        "training": one.training,
        "scoring": one.scoring,
    }
