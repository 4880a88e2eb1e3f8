"""`jobspec validate`, `enqueue` and `schema`: check specs and enqueue them."""

from __future__ import annotations

from collections.abc import Sequence
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
from jobspec.cli.findings import checked_table, enqueued_table, say_findings
from jobspec.cli.output import complain, emit, interactive, plural, say, warn
from jobspec.cli.progress import waiting
from jobspec.errors import JobspecError
from jobspec.estimates import disk_need, training_time
from jobspec.maintenance import disk as space
from jobspec.models.devices import Device
from jobspec.models.devices import device as find_device
from jobspec.queue.job import Job
from jobspec.spec import parsing
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
    that do. It needs no copy of the models that it knows, such as Qwen3 and Olmo-3.
    """
    if gpus is not None and device is None:
        raise click.UsageError("--gpus needs --device.")
    checked = check_all(files, row_check, None if device is None else find_device(device), gpus)
    if wants_json():
        return emit({"specs": [checked_json(one) for one in checked]})
    if interactive() and len(checked) > 1:
        for line in checked_table(checked).lines():
            click.echo(line)
        return None
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
    again. A terminal shows several jobs as a table, a pipe gets one id per line.
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
    if interactive() and len(jobs) > 1:
        for line in enqueued_table(jobs).lines():
            click.echo(line)
        return None
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
        with waiting("enqueueing", len(checked)) as wait:
            for one in wait.each(checked):
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
    with waiting("checking specs", len(files) if len(files) > 1 else None) as wait:
        for file in wait.each(files):
            wait.tell(file.name)
            try:
                one = check.check(
                    file,
                    current_root(),
                    rows=row_check,
                    without_model=device is not None,
                    tell=wait.tell,
                )
                if device is not None:
                    one = check.with_training_estimate(one, current_root(), device, gpus)
                checked.append(one)
            except JobspecError as error:
                failed.append(error)
    say_findings(checked)
    if failed:
        context = click.get_current_context()
        complain(failed, as_json=bool(context.meta.get(JSON_KEY)))
        if len(files) > 1:
            say(f"{plural(len(failed), 'spec')} of {len(files)} refused")
        context.exit(1)
    return checked


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
