"""Runs programs of the worker, in this environment or in the image.

`$JOBSPEC_WORKER_COMMAND` replaces `python` in the command: `apptainer exec worker.sif python`.
A program prints JSON to stdout. If it refuses, it prints `{"error": {...}}` and exits with 3.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

from jobspec.errors import JobspecError
from jobspec.queue import root as roots
from jobspec.records import base as records
from jobspec.records import exit_codes
from jobspec.records.answers import ErrorAnswer
from jobspec.records.base import R

WORKER_COMMAND = "JOBSPEC_WORKER_COMMAND"
_OF_ANOTHER_PYTHON = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONUSERBASE")
_PACKAGES = str(Path(__file__).resolve().parents[1])  # the directory that holds this package


class PackageMissing(JobspecError):  # noqa: N818 - reads as what happened
    """A program of the worker can't run here, because a package is not installed."""


def python_environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for the worker's Python: `base` without another Python's packages.

    Modules of a cluster set `PYTHONHOME` and `PYTHONPATH` for their own Python. Of `PYTHONPATH`
    only the directory stays that this package itself was loaded from.
    """
    kept = {name: value for name, value in base.items() if name not in _OF_ANOTHER_PYTHON}
    if _PACKAGES in map(os.path.realpath, base.get("PYTHONPATH", "").split(os.pathsep)):
        kept["PYTHONPATH"] = _PACKAGES
    return kept


def worker_python() -> list[str]:
    """The command for a Python with the worker's packages: this one, or the image's."""
    return shlex.split(os.environ.get(WORKER_COMMAND, "")) or [sys.executable]


def run(
    module: str, arguments: Sequence[str] = (), *, python: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` with the worker's Python (or another), and wait until it ends."""
    command = [*(python or worker_python()), "-m", module, *arguments]
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            umask=roots.private_umask(),
            env=python_environment(),
        )
    except OSError as error:
        raise _not_run(command, error) from error


def run_in_foreground(command: Sequence[str], *, stdout: IO[str] | None = None) -> int:
    """Run a program of the worker that talks to the user. Returns its exit code.

    Ctrl-C reaches both processes: the program ends its work, and this process waits for it.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.run(
            command,
            stdout=stdout,
            check=False,
            umask=roots.private_umask(),
            env=python_environment(),
            preexec_fn=_catch_interrupts,
        ).returncode
    except OSError as error:
        raise _not_run(command, error) from error
    finally:
        signal.signal(signal.SIGINT, before)


def _catch_interrupts() -> None:
    """Undo, in the child, that an ignored signal stays ignored across `exec`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def ask(
    kind: type[R],
    module: str,
    arguments: Sequence[str],
    *,
    what: str,
    without: str = "",
    python: Sequence[str] = (),
) -> R:
    """Run a program of the worker and return its answer.

    Args:
        kind: the record that the program prints.
        module: the program.
        arguments: its command line.
        what: start of the message if it fails, e.g. "the rows can't be checked".
        without: an option that avoids running it, for the hint.
        python: the command for Python, if not the worker's.

    Raises:
        JobspecError: the program refused or failed.
        PackageMissing: it is not installed, or lacks a package.
    """
    done = run(module, arguments, python=python)
    if done.returncode == 0:
        return msgspec.json.decode(done.stdout, type=kind)
    refusal = _refusal(done)
    if refusal is not None:
        raise refusal
    missing = re.search(r"No module named '?([\w.]+)'?", done.stderr[-2000:])
    if missing is not None or "No such file" in done.stderr:
        raise PackageMissing(
            f"{what} here: `{missing[1] if missing else 'python'}` is missing",
            hint='`pip install "jobspec[worker]"`, or name the image in '
            f"${WORKER_COMMAND} (`apptainer exec worker.sif python`)"
            + (f", or give {without}" if without else ""),
        )
    tail = "\n".join(done.stderr.strip().splitlines()[-15:])
    raise JobspecError(
        f"{what}: {module} failed with exit code {done.returncode}:\n{tail}",
        hint="this is a bug in jobspec or in the environment"
        + (f"; {without} continues without it" if without else ""),
    )


def stream(kind: type[R], module: str, arguments: Sequence[str], *, what: str) -> Iterator[R]:
    """Run a program of the worker and yield its answers, one per line, as it prints them.

    It writes its progress to this process's stderr.

    Raises:
        JobspecError: the program failed, or is not installed.
    """
    command = [*worker_python(), "-m", module, *arguments]
    try:
        running = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            umask=roots.private_umask(),
            env=python_environment(),
        )
    except OSError as error:
        raise _not_run(command, error) from error
    with running:
        for line in running.stdout or ():
            if line.startswith("{"):  # libraries print too
                yield msgspec.json.decode(line, type=kind)
    if running.returncode not in (exit_codes.DONE, exit_codes.REFUSED):
        raise JobspecError(
            f"{what}: {module} failed with exit code {running.returncode}",
            hint="see its messages above; it needs `pip install 'jobspec[worker]'` or an image "
            f"in ${WORKER_COMMAND}",
        )


def _not_run(command: Sequence[str], error: OSError) -> JobspecError:
    return JobspecError(
        f"`{command[0]}` can't be run: {error.strerror}", hint=f"check ${WORKER_COMMAND}"
    )


def _refusal(done: subprocess.CompletedProcess[str]) -> JobspecError | None:
    if done.returncode != exit_codes.REFUSED:
        return None
    for stream in (done.stdout, done.stderr):
        for line in [stream, *reversed(stream.splitlines())]:
            answer = records.parse(line.encode(), ErrorAnswer)
            if answer is not None:
                return answer.error.to_error()
    return None
