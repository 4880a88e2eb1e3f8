"""The rows of a spec's data, proved by the worker's own code in a process of its own.

`python -m worker.prepare --check` renders and verifies every row as training will; it runs from
this environment, or from the image where `$JOBSPEC_WORKER_COMMAND` says how (a prefix that takes
Python's place: `apptainer exec worker.sif python`). Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from jobspec import spec as specs
from jobspec import tasknames
from jobspec.errors import DataError, JobspecError
from jobspec.paths import RootPaths
from jobspec.spec import JobSpec

WORKER_COMMAND = "JOBSPEC_WORKER_COMMAND"
REFUSED = 3  # the exit code of a worker program that gave its reason as JSON


class RowReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the row check found; what a later worker adds is ignored. Lengths are in tokens."""

    rows_in: int = 0
    rows_selected: int = 0
    rows_train: int = 0
    rows_eval: int = 0
    dropped: dict[str, int] = {}
    prompts: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    length_percentiles: dict[str, float] = {}
    rows_without_thinking: int = 0
    rows_with_think_end_token: int = 0
    think_end_in_template: bool = False
    cached: bool = False
    seconds: float = 0.0


class _Message(msgspec.Struct):
    role: str


class _Row(msgspec.Struct):
    messages: list[_Message]


def check_lines(path: Path) -> None:
    """Read every line as a row whose last message is the assistant's. Raises DataError."""
    decoder = msgspec.json.Decoder(_Row)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = decoder.decode(line)
            except msgspec.MsgspecError as error:
                raise DataError(
                    f"not a row of `messages`: {error}", file=path, place=f"row {number}"
                ) from error
            if not row.messages or row.messages[-1].role != "assistant":
                raise DataError(
                    "its last message is not the assistant's",
                    file=path,
                    place=f"row {number}",
                    hint="what is trained is the final assistant turn: end the row with one",
                )


def check_rows(spec: JobSpec, root: Path) -> RowReport:
    """Have the worker's code render and verify every row, as training will.

    Raises:
        JobspecError: what it refused, or that it is not installed here.
    """
    with _spec_file(spec) as file, _somewhere(root) as place:
        asked = run_prepare(["--check", file, "--root", place])
    return msgspec.convert(asked, RowReport)


def preview(spec: JobSpec, root: Path, row: int) -> dict[str, Any]:
    """What one row (counted from 1) trains, as the worker's code renders it."""
    with _spec_file(spec) as file, _somewhere(root) as place:
        return run_prepare(["--preview", file, "--row", str(row), "--root", place])


def run_prepare(arguments: Sequence[str]) -> dict[str, Any]:
    """Run `python -m worker.prepare`; its JSON answer, or its refusal as the error it names."""
    done = _run([*worker_python(), "-m", "worker.prepare", *arguments])
    if done.returncode == 0:
        return json.loads(done.stdout)
    refusal = _refusal(done)
    if refusal is not None:
        raise refusal
    missing = re.search(r"No module named '?([\w.]+)'?", done.stderr[-2000:])
    if missing is not None or "No such file" in done.stderr:
        raise JobspecError(
            f"the rows can't be checked here: `{missing[1] if missing else 'python'}` is missing",
            hint='`pip install "jobspec[worker]"`, or name the image in '
            f"${WORKER_COMMAND} (`apptainer exec worker.sif python`), or give --no-row-check",
        )
    tail = "\n".join(done.stderr.strip().splitlines()[-15:])
    raise JobspecError(
        f"the row check broke off with exit code {done.returncode}:\n{tail}",
        hint="this is a bug of ours or of the environment; --no-row-check goes on without it",
    )


def lm_eval_names() -> set[str] | None:
    """Every task lm-eval knows, here or in the image; None where it is not installed."""
    if not os.environ.get(WORKER_COMMAND):
        return tasknames.lm_eval_names()
    asked = _run([*worker_python(), "-m", tasknames.__name__])
    names = json.loads(asked.stdout) if asked.returncode == 0 else None
    return None if names is None else set(names)


def worker_python() -> list[str]:
    """The Python that has the worker's packages: this one, or the image's."""
    return shlex.split(os.environ.get(WORKER_COMMAND, "")) or [sys.executable]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        raise JobspecError(
            f"`{command[0]}` can't be run: {error.strerror}", hint=f"look at ${WORKER_COMMAND}"
        ) from error


def _refusal(done: subprocess.CompletedProcess[str]) -> JobspecError | None:
    if done.returncode != REFUSED:
        return None
    for stream in (done.stdout, done.stderr):
        for line in [stream, *reversed(stream.splitlines())]:
            try:
                error = json.loads(line)["error"]
                return JobspecError(error.pop("message"), **error)
            except (ValueError, TypeError, KeyError):
                continue
    return None


@contextmanager
def _spec_file(spec: JobSpec) -> Generator[str]:
    """The completed spec in a file for a subprocess to read."""
    with tempfile.TemporaryDirectory(prefix="jobspec-") as folder:
        path = Path(folder) / f"{spec.name}.json"
        path.write_bytes(specs.canonical(spec))
        yield str(path)


@contextmanager
def _somewhere(root: Path) -> Generator[str]:
    """The root, or where there is none yet a temporary one: checking makes no root."""
    if RootPaths(root).format.exists():
        yield str(root)
        return
    with tempfile.TemporaryDirectory(prefix="jobspec-") as folder:
        yield folder
