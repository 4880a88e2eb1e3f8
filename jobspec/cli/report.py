"""`jobspec report`: write the report page to a file."""

from __future__ import annotations

import os
from pathlib import Path

import click

from jobspec.cli.common import (
    chosen_jobs,
    common,
    jobs_argument,
    open_queue,
    state_option,
    wants_json,
)
from jobspec.cli.output import emit, plural, say
from jobspec.errors import JobspecError


@click.command()
@jobs_argument(required=False)
@state_option
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="HTML file to write.",
)
@common
def report(jobs: tuple[str, ...], states: tuple[str, ...], output: Path) -> None:
    """Write curves, scores and times to one HTML file that needs no network.

    \b
    jobspec report -o report.html
    jobspec report 'qwen3-*' --state succeeded -o qwen3.html
    """
    from jobspec.dashboard.page import render

    queue = open_queue()
    chosen = chosen_jobs(queue, jobs, states)
    page = render(queue, chosen).encode()
    try:
        _replace(output, page)
    except OSError as error:
        raise JobspecError(f"cannot be written: {error.strerror}", file=output) from error
    if wants_json():
        return emit({"file": str(output), "jobs": len(chosen), "bytes": len(page)})
    click.echo(output)
    return say(f"{plural(len(chosen), 'job')}, {len(page) / 1e6:.1f} MB")


def _replace(path: Path, data: bytes) -> None:
    """Replace a file atomically."""
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temp.write_bytes(data)
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)
