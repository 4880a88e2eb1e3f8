"""`jobspec archive`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from jobspec import archive as archives
from jobspec.cli.common import common, jobs_argument, open_queue, wants_json
from jobspec.cli.output import complain, emit, error_json, plural
from jobspec.errors import JobspecError


@click.command()
@jobs_argument()
@click.argument("destination", type=click.Path(file_okay=False, path_type=Path))
@click.option("--no-model", is_flag=True, help="Leave the trained weights out.")
@common
def archive(jobs: tuple[str, ...], destination: Path, no_model: bool) -> None:
    """Copy ended jobs off scratch, with checksums read back from the copy.

    \b
    jobspec archive 'qwen3-*' /fs/project/me/runs
    cd /fs/project/me/runs/JOB && sha256sum --check --quiet SHA256SUMS

    Specs, logs, metrics, samples, scores and weights; no resume states. Nothing is removed from
    scratch, and a copy that is there already is looked through instead.
    """
    done: list[archives.Archived] = []
    failed: list[JobspecError] = []
    for job in open_queue().select(jobs):
        try:
            done.append(archives.archive(job, destination.absolute(), model=not no_model))
        except JobspecError as error:
            failed.append(error)
    if failed:
        complain(failed, as_json=False)
    if wants_json():
        errors = [error_json(error) for error in failed]
        emit({"archived": [asdict(each) for each in done], "errors": errors})
    else:
        for each in done:
            what = "was there, and is whole" if each.already else "copied"
            click.echo(
                f"{each.place}: {plural(each.files, 'file')}, {each.size / 2**20:,.1f} MiB, {what}"
            )
    click.get_current_context().exit(1 if failed else 0)
