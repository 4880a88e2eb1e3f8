"""`jobspec demo`: train and score a tiny model on this machine."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import IO

import click

from jobspec import worker_command
from jobspec.cli.common import ROOT_KEY, common, wants_json
from jobspec.cli.output import emit_struct
from jobspec.errors import JobspecError
from jobspec.queue.queue import Queue
from jobspec.results import table
from jobspec.storage.layout import RootPaths


@click.command()
@common
def demo() -> None:
    """Train and score a tiny model on this machine: two specs, one worker, a table of scores.

    \b
    jobspec demo

    It needs the worker's packages, but no GPU and no network. It works in a temporary directory;
    with --root it works there and keeps everything.
    """
    given = click.get_current_context().meta.get(ROOT_KEY)
    if not wants_json():
        return click.get_current_context().exit(_run(given, sys.stdout))
    with tempfile.TemporaryDirectory(prefix="jobspec-demo-") as folder:
        directory = Path(given or folder)
        code = _run(directory, sys.stderr)  # stdout is for the data
        root = directory / "root"
        if RootPaths(root).format.exists():
            emit_struct(table.results(str(root), table.all_rows(Queue(root).jobs())))
    return click.get_current_context().exit(code)


def _run(root: Path | None, output: IO[str]) -> int:
    """Run the worker's demo as a child process, because jobspec does not import the worker."""
    command = [sys.executable, "-m", "worker.demo.run", *(["--root", str(root)] if root else [])]
    code = worker_command.run_in_foreground(command, stdout=output)
    if code == 1 and not _has_worker():
        raise JobspecError("the worker is not installed", hint='pip install "jobspec[worker]"')
    return code


def _has_worker() -> bool:
    from importlib.util import find_spec

    return find_spec("worker") is not None and find_spec("torch") is not None
