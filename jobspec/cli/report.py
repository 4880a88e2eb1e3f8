"""`jobspec report`: write the report page to a file."""

from __future__ import annotations

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
from jobspec.cli.progress import waiting
from jobspec.storage import fs


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
    """Write runs, scores, curves and samples to one HTML file that needs no network.

    \b
    jobspec report -o report.html
    jobspec report 'qwen3-*' --state succeeded -o qwen3.html
    """
    from jobspec.dashboard import document, page

    queue = open_queue(write=False)
    chosen = chosen_jobs(queue, jobs, states)
    with waiting(f"reading {plural(len(chosen), 'job')}"):
        made = page.render(document.whole_document(queue, chosen)).encode()
        fs.replace(output, made)
    if wants_json():
        return emit({"file": str(output), "jobs": len(chosen), "bytes": len(made)})
    click.echo(output)
    return say(f"{plural(len(chosen), 'job')}, {len(made) / 1e6:.1f} MB")
