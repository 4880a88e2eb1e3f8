"""Checks the rows of a spec's data with the worker's own code, in a separate process.

`python -m worker.data.check_command --check` renders and verifies every row as training will. It
runs in this environment, or in the image if `$JOBSPEC_WORKER_COMMAND` is set: a prefix that
replaces `python`, for example `apptainer exec worker.sif python`. Nothing here imports torch.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec

from jobspec import worker_command
from jobspec.benchmarks import lm_eval_names as tasknames
from jobspec.errors import DataError, JobspecError, MalformedRow
from jobspec.records.answers import Contamination, Preview, TasksAnswer
from jobspec.records.audit import AuditAnswer, EvalAudit, ResumeAudit
from jobspec.records.base import UNSET
from jobspec.records.reports import RowReport
from jobspec.spec import identity
from jobspec.spec.schema import DataSpec, JobSpec
from jobspec.spec.sources import errors_at, group_place, list_sources
from jobspec.storage import data_files, json_faults
from jobspec.storage.layout import AttemptPaths, RootPaths

_loaded_tasks: dict[tuple[bytes, Path], TasksAnswer] = {}  # by `eval` group and root
_ROW_HINT = 'each row is one JSON object, as {"messages": [{"role": …, "content": …}, …]}'


def check_lines(data: DataSpec) -> None:
    """Read every row's JSON, without the worker's code, as far as `max_dropped_frac` allows.

    Tables and directories need the worker's packages, so they are not read.

    Raises:
        DataError: a file can't be read, or too many of its rows are no conversations.
    """
    for index, source in enumerate(list_sources(data)):
        with errors_at(f"{group_place(data, index)}.path"):
            _check_lines_of(Path(source.path), source.format or "auto", data.max_dropped_frac)


def _check_lines_of(path: Path, format_: str, allowed: float) -> None:
    if path.is_dir() or data_files.detect(path).table is not None:
        return
    _check_conversations(data_files.read_lines(path), path, format_, allowed)


def _check_conversations(
    lines: Iterable[tuple[int, bytes]], path: Path, format_: str, allowed: float
) -> None:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    count, first, malformed = 0, None, 0
    for number, line in lines:
        count += 1
        try:
            wrong = _wrong_with(decode(line), format_)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            error = json_faults.explain(line, number, path)
            if not isinstance(error, MalformedRow):
                raise error from None
            wrong = error.message
        if wrong is not None:
            first, malformed = first or (number, wrong), malformed + 1
    if not count:
        raise DataError("has no rows", file=path, place="$.data.path", hint=_ROW_HINT)
    if first is not None and (malformed > allowed * count or malformed == count):
        number, wrong = first
        raise DataError(wrong, file=path, place=f"row {number}", hint=_ROW_HINT)


def check_first_lines(data: DataSpec, count: int = 10) -> None:
    """Read the first rows of every file that is here.

    Raises:
        DataError: one of them is no conversation, unless the spec allows rows to be dropped.
    """
    for index, source in enumerate(list_sources(data)):
        path = Path(source.path)
        if not path.is_file() or data_files.detect(path).table is not None:
            continue
        with errors_at(f"{group_place(data, index)}.path"):
            lines = itertools.islice(data_files.read_lines(path), count)
            _check_conversations(lines, path, source.format or "auto", data.max_dropped_frac)


def _wrong_with(row: dict[str, Any], format_: str) -> str | None:
    """What is wrong with a row of `messages`; rows of other formats are the worker's to check."""
    messages = row.get("messages")
    others = {"conversations", "prompt", "instruction"} & row.keys()
    if messages is None and format_ != "messages" and others:
        return None
    last = cast("Any", messages[-1]) if isinstance(messages, list) and messages else None
    if not isinstance(last, dict):
        return "not a row of `messages`"
    if cast("dict[str, Any]", last).get("role") != "assistant":
        return "its last message is not the assistant's"
    return None


def check_rows(spec: JobSpec, root: Path) -> RowReport:
    """Render and verify every row with the worker's code, as training will.

    Raises:
        JobspecError: a row was refused, or the worker's packages are not installed here.
    """
    with _spec_file(spec) as file, _root_or_temporary(root) as place:
        return worker_command.ask(
            RowReport,
            "worker.data.check_command",
            ["--check", file, "--root", place],
            what="the rows can't be checked",
            without="--no-row-check",
        )


def search_for_questions(spec: JobSpec, root: Path) -> Contamination:
    """Search the rows for the benchmarks' questions, where the rows themselves are not checked.

    This always runs in this environment: it needs neither tokenizer nor model.

    Raises:
        JobspecError: a row contains a question, or the rows can't be read here.
    """
    with _spec_file(spec) as file, _root_or_temporary(root) as place:
        return worker_command.ask(
            Contamination,
            "worker.contamination.search_command",
            [file, "--root", place],
            what="the rows can't be searched for benchmark questions",
            python=[sys.executable],
        )


def load_tasks(spec: JobSpec, root: Path) -> TasksAnswer:
    """Load the spec's lm-eval tasks with the worker's code, as the eval phase will.

    That takes about twenty seconds, so the specs of a grid share one answer.

    Raises:
        JobspecError: a task can't be run, or the worker's packages are not installed here.
    """
    key = (msgspec.json.encode(spec.eval), root)  # nothing else of a spec matters to its tasks
    if key not in _loaded_tasks:
        with _spec_file(spec) as file, _root_or_temporary(root) as place:
            _loaded_tasks[key] = worker_command.ask(
                TasksAnswer,
                "worker.lm_eval_tasks.task_check",
                [file, "--root", place],
                what="lm-eval's tasks can't be checked",
                without="--no-row-check",
            )
    return _loaded_tasks[key]


def preview(
    spec: JobSpec, root: Path, row: int | None = None, source: str | None = None
) -> Preview:
    """One row (counted from 1) as the worker renders it; by default the first, with an overview.

    Args:
        source: the name of the row's source in a mixture; by default the first one.
    """
    asked = [] if row is None else ["--row", str(row)]
    asked += [] if source is None else ["--source", source]
    with _spec_file(spec) as file, _root_or_temporary(root) as place:
        return worker_command.ask(
            Preview,
            "worker.preview.preview_command",
            [file, "--root", place, *asked],
            what="the rows can't be shown",
        )


def audit_resume(spec: JobSpec, root: Path, *, ranks: int, kills: int, seed: int) -> ResumeAudit:
    """Train a small version of the spec with and without kills, and compare (`worker.audit`).

    Raises:
        JobspecError: it can't be trained here, or the worker's packages are not installed.
    """
    options = {"--ranks": ranks, "--kills": kills, "--seed": seed}
    with _spec_file(spec) as file, _root_or_temporary(root) as place:
        arguments = [file, "--root", place, *(str(x) for pair in options.items() for x in pair)]
        what = "the resume can't be audited"
        answer = _ask_audit("worker.audit.resume_command", arguments, what)
    assert answer.audit is not UNSET
    return answer.audit


def audit_eval(attempt: AttemptPaths, *, percent: float, seed: int) -> EvalAudit:
    """Draw some samples of an attempt again, and compare (`worker.audit`).

    Raises:
        JobspecError: they can't be drawn here, or the worker's packages are not installed.
    """
    # The image has the root mounted under the same absolute path.
    arguments = [str(attempt.dir.absolute()), "--percent", str(percent), "--seed", str(seed)]
    what = "the evaluation can't be audited"
    answer = _ask_audit("worker.audit.eval_command", arguments, what)
    assert answer.redraw is not UNSET
    return answer.redraw


def _ask_audit(module: str, arguments: Sequence[str], what: str) -> AuditAnswer:
    """The answer of a program that tells its progress meanwhile. Raises its error."""
    for answer in worker_command.stream(AuditAnswer, module, arguments, what=what):
        if answer.error is not UNSET:
            raise answer.error.to_error()
        return answer
    raise JobspecError(f"{what}: {module} printed no answer", hint="see its messages above")


def lm_eval_names() -> set[str] | None:
    """Every task lm-eval knows, here or in the image; None where it is not installed."""
    return _names_of(os.environ.get(worker_command.WORKER_COMMAND))


@cache  # a grid of specs asks once
def _names_of(command: str | None) -> set[str] | None:
    if not command:
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
