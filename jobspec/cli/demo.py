"""`jobspec demo`."""

from __future__ import annotations

import subprocess
import sys

import click

from jobspec.cli.common import ROOT_KEY, common, wants_json
from jobspec.errors import JobspecError


@click.command()
@common
def demo() -> None:
    """Run the whole way on this machine: a tiny model learns, two specs, one worker, scores.

    \b
    jobspec demo

    Needs the worker's packages, no GPU and no network; keeps to a temporary root unless --root
    names one.
    """
    # The worker's code runs in a process of its own: nothing of jobspec imports it.
    command = [sys.executable, "-m", "worker.demo"]
    root = click.get_current_context().meta.get(ROOT_KEY)
    command += ["--root", str(root)] if root is not None else []
    command += ["--json"] if wants_json() else []
    try:
        code = subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        code = 130
    if code == 1 and not _has_worker():
        raise JobspecError("the worker is not installed", hint='pip install "jobspec[worker]"')
    click.get_current_context().exit(code)


def _has_worker() -> bool:
    from importlib.util import find_spec

    return find_spec("worker") is not None and find_spec("torch") is not None
