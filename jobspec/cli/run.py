"""`jobspec run`: enqueue specs, run them on this machine, and show what came out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from jobspec import worker_command
from jobspec.checks import check
from jobspec.checks.benchmarks import missing_files
from jobspec.cli.common import common, create_option, create_queue, open_queue, wants_json
from jobspec.cli.fetch import fetch_all
from jobspec.cli.output import complain, emit_struct, say
from jobspec.cli.results import results
from jobspec.cli.specs import check_all, enqueue_all, row_check_option, specs_argument
from jobspec.cli.status_view import job_table
from jobspec.errors import JobspecError
from jobspec.models.directory import is_path, locate
from jobspec.monitoring import status
from jobspec.queue.job import Job
from jobspec.records.base import FINAL, State
from jobspec.results import table as scores
from jobspec.spec import parsing
from jobspec.spec.benchmark_settings import with_canonical_names
from jobspec.storage.layout import RootPaths

_PRIORITY = 50


@click.command()
@specs_argument
@row_check_option
@create_option
@common
def run(files: tuple[Path, ...], row_check: bool) -> None:
    """Check specs, run them on this machine, and show their scores.

    \b
    jobspec run mine/first.json

    It downloads models and benchmarks that are not here yet, enqueues the specs and starts a worker
    for them alone, which ends with them. After Ctrl-C the same command goes on where it was. On a
    cluster, use `jobspec enqueue` and `jobspec submit`.
    """
    _fetch_missing(files, create_queue().paths.root)
    ids = [job.id for _, job in enqueue_all(check_all(files, row_check), _PRIORITY)]
    queue = open_queue()
    if any(queue.job(id_).state not in FINAL for id_ in ids):
        _work(queue.paths.root, ids)
    jobs = [queue.job(id_) for id_ in ids]
    if wants_json():
        emit_struct(scores.results(str(queue.paths.root), scores.all_rows(jobs)))
    else:
        _show(jobs)
    context = click.get_current_context()
    context.exit(0 if all(job.state is State.SUCCEEDED for job in jobs) else 1)


def _fetch_missing(files: Sequence[Path], root: Path) -> None:
    """Download what the specs need and this machine lacks; exit with 1 if it can't be had."""
    missing = [file for file in files if _lacks(file, root)]
    if not missing:
        return
    say("downloading what is missing here, as `jobspec fetch` does")
    _, failed = fetch_all(missing, root)
    if failed:
        context = click.get_current_context()
        complain(failed, as_json=wants_json())
        context.exit(1)


def _lacks(file: Path, root: Path) -> bool:
    """Whether a model or a benchmark is missing. What else is wrong is left to the checks."""
    try:
        spec = check.with_absolute_paths(with_canonical_names(parsing.load(file)))
    except JobspecError:
        return False
    if not is_path(spec.model.name) and locate(spec.model, RootPaths(root)) is None:
        return True
    return spec.eval is not None and bool(missing_files(spec.eval, root))


def _work(root: Path, ids: list[str]) -> None:
    """Run a worker until these jobs have ended. Its log goes to stderr."""
    chosen = [part for id_ in ids for part in ("--job", id_)]
    command = [*worker_command.worker_python(), "-m", "worker", "--root", str(root), "--drain"]
    code = worker_command.run_in_foreground([*command, *chosen])
    if code:
        say(f"the worker exited with {code}", fg="yellow")


def _show(jobs: list[Job]) -> None:
    for line in job_table([status.job_row(job) for job in jobs], jobs).lines():
        click.echo(line)
    for job in jobs:
        if job.state is State.SUCCEEDED and job.spec.train is not None:
            click.echo(f"model: {job.paths.final_model}")
    if scores.rows(jobs):
        click.echo()
        ids = tuple(job.id for job in jobs)
        click.get_current_context().invoke(results, jobs=ids, form=None, against=None)
