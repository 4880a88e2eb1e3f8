"""Checks the rows of a spec's data with the worker's own code, in a separate process.

`python -m worker.data.check_command --check` renders and verifies every row as training will. It
runs in this environment, or in the image if `$JOBSPEC_WORKER_COMMAND` is set: a prefix that
replaces `python`, for example `apptainer exec worker.sif python`. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from jobspec import worker_command
from jobspec.benchmarks import lm_eval_names as tasknames
from jobspec.errors import DataError
from jobspec.records.answers import Preview
from jobspec.records.base import R
from jobspec.records.reports import RowReport
from jobspec.spec import identity
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths


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
                    f"not a row of `messages`: {error}",
                    file=path,
                    place=f"row {number}",
                    hint='each line holds one JSON object, as {"messages": [{"role": …, …}, …]}',
                ) from error
            if not row.messages or row.messages[-1].role != "assistant":
                raise DataError(
                    "its last message is not the assistant's",
                    file=path,
                    place=f"row {number}",
                    hint="loss is computed on the final assistant turn: end the row with one",
                )


def check_rows(spec: JobSpec, root: Path) -> RowReport:
    """Render and verify every row with the worker's code, as training will.

    Raises:
        JobspecError: a row was refused, or the worker's packages are not installed here.
    """
    with _spec_file(spec) as file, _root_or_temporary(root) as place:
        return run_prepare(RowReport, ["--check", file, "--root", place])


def preview(spec: JobSpec, root: Path, row: int) -> Preview:
    """Return one row (counted from 1) as the worker renders it, with its trained span."""
    with _spec_file(spec) as file, _root_or_temporary(root) as place:
        return run_prepare(Preview, ["--preview", file, "--row", str(row), "--root", place])


def run_prepare(kind: type[R], arguments: Sequence[str]) -> R:
    """Run `python -m worker.data.check_command` and return its answer. Raises what it refused."""
    return worker_command.ask(
        kind,
        "worker.data.check_command",
        arguments,
        what="the rows can't be checked",
        without="--no-row-check",
    )


def lm_eval_names() -> set[str] | None:
    """Every task lm-eval knows, here or in the image; None where it is not installed."""
    if not os.environ.get(worker_command.WORKER_COMMAND):
        return tasknames.lm_eval_names()
    asked = worker_command.run(tasknames.__name__)
    names = json.loads(asked.stdout) if asked.returncode == 0 else None
    return None if names is None else set(names)


@contextmanager
def _spec_file(spec: JobSpec) -> Generator[str]:
    """The completed spec in a file for a subprocess to read."""
    with tempfile.TemporaryDirectory(prefix="jobspec-") as folder:
        path = Path(folder) / f"{spec.name}.json"
        path.write_bytes(identity.canonical(spec))
        yield str(path)


@contextmanager
def _root_or_temporary(root: Path) -> Generator[str]:
    """Yield the root, or a temporary directory if there is none yet: checking creates no root."""
    if RootPaths(root).format.exists():
        yield str(root)
        return
    with tempfile.TemporaryDirectory(prefix="jobspec-") as folder:
        yield folder
