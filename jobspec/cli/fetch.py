"""`jobspec fetch`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from jobspec import worker_command
from jobspec.cli.common import JSON_KEY, common, create_option, create_queue, wants_json
from jobspec.cli.output import complain, emit, error_json, plural, say
from jobspec.errors import JobspecError
from jobspec.records.answers import Fetched


@click.command()
@click.argument(
    "files",
    metavar="SPEC...",
    nargs=-1,
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
)
@create_option
@common
def fetch(files: tuple[Path, ...]) -> None:
    """Download the models and benchmarks that specs need into the root's cache.

    \b
    jobspec fetch specs/*.json

    Run it on a node with network access; workers then need none. Of a model it downloads only the
    safetensors weights, configuration, tokenizer and chat template. Set $HF_TOKEN for gated models
    and $HF_ENDPOINT to use a mirror. Files that exist already are not downloaded again.
    """
    fetched, failed = fetch_all(files, create_queue().paths.root)
    _end(fetched, failed, len(files))


def fetch_all(files: Sequence[Path], root: Path) -> tuple[list[Fetched], list[JobspecError]]:
    """Fetch what specs need, with a line for each item. Returns what worked and what failed."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    fetched: list[Fetched] = []
    failed: list[JobspecError] = []
    arguments = ["--json", str(root), *map(str, files)]
    what = "nothing can be fetched"
    for answer in worker_command.stream(Fetched, "worker.fetch", arguments, what=what):
        if answer.error:
            failed.append(answer.error.to_error())
            continue
        fetched.append(answer)
        if answer.fetched and not wants_json():
            _print_line(answer.fetched)
    return fetched, failed


def _print_line(what: str) -> None:
    """Print a line, after erasing the progress bar that a terminal may show on it."""
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    click.echo(what)


def _end(fetched: list[Fetched], failed: list[JobspecError], asked: int) -> None:
    context = click.get_current_context()
    if failed:
        complain(failed, as_json=False)
        if asked > 1:
            say(f"{plural(len(failed), 'spec')} of {asked} not fetched completely")
    if context.meta.get(JSON_KEY):
        emit({"fetched": fetched, "errors": [error_json(error) for error in failed]})
    context.exit(1 if failed else 0)
