"""Which files of a job belong to its bundle, and their bytes without anything that identifies.

A bundle has the same layout as a job's directory, so that everything that reads a job reads it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from jobspec.bundle.redaction import Redactor
from jobspec.errors import JobspecError
from jobspec.maintenance import model_card
from jobspec.queue.job import Job
from jobspec.records import evaluation, metrics, phases
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, BundlePaths, EvaluationPaths

LOG_BYTES = 64 * 1024
# Of a model's directory only files that hold no program are ever included.
_MODEL_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")
_CONFIGURATIONS = ("config.json", "_config.json")  # ends of names; others hold vocabulary
_MOST_HEADER = 100 * 2**20  # bytes, as in the format of safetensors

File = tuple[Path, bytes]


def of_job(job: Job, redactor: Redactor) -> Iterator[File]:
    """The path of each file relative to the job's directory, with the bytes for the bundle."""
    yield _relative(job, job.paths.spec), _record(fs.read(job.paths.spec), redactor)
    for attempt in metrics.attempts(job.paths):
        if attempt.number <= job.attempt:
            for path in _small_files(attempt):
                if (data := _read(path, redactor)) is not None:
                    yield _relative(job, path), data
    yield from _samples(job, redactor)
    with contextlib.suppress(JobspecError):  # without a final model there is no card
        yield BundlePaths(Path()).model_card, redactor.text(model_card.render(job)).encode()


def _relative(job: Job, path: Path) -> Path:
    return path.relative_to(job.paths.dir)


def _small_files(attempt: AttemptPaths) -> Iterator[Path]:
    """Records, metrics and logs of an attempt: not its claim, which only names a process."""
    yield from (attempt.manifest, attempt.micro_batches, attempt.events, attempt.metrics)
    yield from (attempt.done(phase.name) for phase in phases.PHASES)
    yield from (attempt.result, attempt.end, attempt.error, attempt.retry, attempt.revoked)
    yield from sorted(attempt.dir.glob("*.log"))


def _read(path: Path, redactor: Redactor) -> bytes | None:
    """A file's bytes for the bundle; None if there is no such file, or it is empty."""
    try:
        if path.suffix == ".log":
            return _log_tail(path, redactor) or None
        data = fs.read(path)
    except FileNotFoundError:
        return None
    if path.suffix == ".jsonl":
        return _lines(data, redactor.value)
    return _record(data, redactor) if data else None


def _log_tail(path: Path, redactor: Redactor) -> bytes:
    """The last lines of a log, of which progress bars keep their last state."""
    lines = metrics.last_lines(path, LOG_BYTES)
    shown = [line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines]
    text = b"".join(line + b"\n" for line in shown).decode(errors="replace")
    return redactor.text(text).encode()


def _record(data: bytes, redactor: Redactor) -> bytes:
    """A JSON file, indented as records are."""
    try:
        value = redactor.value(json.loads(data))
    except ValueError:
        return redactor.text(data.decode(errors="replace")).encode()
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _lines(data: bytes, clean: Callable[[Any], Any]) -> bytes:
    """A JSONL file. A line without anything to replace keeps its bytes; a torn one is left out."""
    kept: list[bytes] = []
    for line in data.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        new = clean(row)
        kept.append(line if new == row else msgspec.json.encode(new))
    return b"".join(line + b"\n" for line in kept)


def _samples(job: Job, redactor: Redactor) -> Iterator[File]:
    """The evaluations of the job's last attempt: plans, questions, generations and scores."""
    found = evaluation.benchmark_dirs(job.paths.attempt(job.attempt).eval)
    for directory in found.values():
        paths = EvaluationPaths(directory)
        yield _relative(job, paths.plan), _record(fs.read(paths.plan), redactor)
        rows = sorted(path for path in directory.glob("*.jsonl") if path != paths.samples)
        for path in rows:
            data = _lines(fs.read(path), lambda row: _sample(row, redactor))
            yield _relative(job, path), data


def _sample(row: dict[str, Any], redactor: Redactor) -> Any:
    """A row of samples. Where an answer begins is counted in characters, and so moves along."""
    start = row.get("answer_start")
    if isinstance(start, int) and start > 0 and isinstance(row.get("text"), str):
        before = redactor.sample(row["text"][:start])
        row = row | {"text": before + row["text"][start:], "answer_start": len(before)}
    return redactor.value(row, redactor.sample)


def model_files(attempt: AttemptPaths) -> list[Path]:
    """The files of the trained model, or of its adapter; empty if it was deleted."""
    for directory in (attempt.final_model, attempt.adapter):
        if found := sorted(p for p in directory.glob("*") if p.suffix in _MODEL_SUFFIXES):
            return found
    return []


def model_file(path: Path, redactor: Redactor) -> bytes | None:
    """The bytes of a model's file if they differ from the file's; None if it is copied.

    Raises:
        JobspecError: the file is not plain weights, or its header names people or machines.
    """
    if path.name.endswith(_CONFIGURATIONS):
        return _record(fs.read(path), redactor)
    if path.suffix == ".safetensors":
        header = json.dumps(safetensors_header(path).get("__metadata__", {}))
        if redactor.text(header) != header:
            raise JobspecError(
                "its metadata holds a name or a path that does not belong into a bundle",
                file=path,
                hint="leave out --weights: the weights are named by their hash",
            )
    return None


def safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file. Raises JobspecError if it is no such file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        data = file.read(size) if 0 < size <= _MOST_HEADER else b""
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise JobspecError("is no safetensors file", file=path) from error


def data_file(path: Path, redactor: Redactor) -> bytes:
    """The bytes of a data file, which are included as they are or not at all.

    Raises:
        JobspecError: it is no JSON Lines file, or holds a secret, a name or a path of this machine.
    """
    data = fs.read(path)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise JobspecError(
            "is not included: only JSON Lines can be searched for names", file=path
        ) from error
    if redactor.sample(text) != text:
        raise JobspecError(
            "is not included: it holds a secret, a user's or host's name, or a path of this root",
            file=path,
            hint="leave out --data: the data is named by its hash",
        )
    return data
