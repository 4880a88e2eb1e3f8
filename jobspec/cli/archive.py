"""`jobspec archive`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from jobspec.cli.common import common, jobs_argument, open_queue, wants_json
from jobspec.cli.output import complain, emit, error_json, plural, say
from jobspec.cli.progress import waiting
from jobspec.errors import JobspecError
from jobspec.maintenance import archive as archives
from jobspec.queue import selectors
from jobspec.queue.job import Job
from jobspec.records.base import FINAL
from jobspec.storage.disk_errors import explain


@click.command()
@jobs_argument()
@click.argument("destination", type=click.Path(file_okay=False, path_type=Path))
@click.option("--no-model", is_flag=True, help="Do not copy the trained weights.")
@common
def archive(jobs: tuple[str, ...], destination: Path, no_model: bool) -> None:
    """Copy ended jobs to another filesystem, with checksums verified on the copy.

    \b
    jobspec archive 'qwen3-*' /fs/project/me/runs
    cd /fs/project/me/runs/JOB && sha256sum --check --quiet SHA256SUMS

    It copies specs, logs, metrics, samples, scores and weights, but no checkpoints to resume from.
    It deletes nothing. A copy that already exists is verified instead. Jobs matched by a glob that
    have not ended are skipped; a job named by its id must have ended.
    """
    done: list[archives.Archived] = []
    failed: list[JobspecError] = []
    chosen, left = _ready(open_queue(write=False).select(jobs), jobs)
    with waiting("archiving jobs", len(chosen)) as wait:
        for job in wait.each(chosen):
            wait.tell(job.id)
            try:
                done.append(archives.archive(job, destination.absolute(), model=not no_model))
            except JobspecError as error:
                failed.append(error)
            except OSError as error:
                failed.append(explain(error))
    if failed:
        complain(failed, as_json=False)
    if left:
        say(f"{plural(len(left), 'job')} skipped, not ended yet: {', '.join(left)}")
    if wants_json():
        errors = [error_json(error) for error in failed]
        emit({"archived": [asdict(each) for each in done], "left": left, "errors": errors})
    else:
        for each in done:
            what = "already there and intact" if each.already else "copied"
            click.echo(
                f"{each.place}: {plural(each.files, 'file')}, {each.size / 2**20:,.1f} MiB, {what}"
            )
    click.get_current_context().exit(1 if failed else 0)


def _ready(matched: Sequence[Job], patterns: Sequence[str]) -> tuple[list[Job], list[str]]:
    """The jobs to archive, and the ids of jobs that match only a glob and have not ended."""
    named = selectors.find_all(matched, [each for each in patterns if not selectors.is_glob(each)])
    asked = {job.id for job in named}
    ready = [job for job in matched if job.state in FINAL or job.id in asked]
    return ready, [job.id for job in matched if job not in ready]
