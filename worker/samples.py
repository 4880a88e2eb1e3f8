"""What is asked of an engine, what comes back, and the files that keep it.

`eval/<benchmark>/` of an attempt holds `plan.json` (the key of everything that shapes a text),
`questions.jsonl` (each question with its prompt) and `generations-<chunk>.jsonl`, each published
whole when its chunk is finished. A later attempt with the same key reads an earlier one's chunks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from jobspec import fs
from jobspec.errors import BenchmarkError
from jobspec.record import Record

R = TypeVar("R", bound=Record)


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """Every field that shapes a draw; all of them are passed to the engine explicitly."""

    max_gen_toks: int
    temperature: float
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One sample to draw: which, from which prompt, with which seed."""

    question: str
    sample: int
    seed: int
    prompt: tuple[int, ...]


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A fixed group of requests: the unit of work, of storage, and of what a kill can lose."""

    benchmark: str
    index: int
    sampling: Sampling
    requests: tuple[Request, ...]


class Generation(Record, frozen=True, kw_only=True):
    """One sample drawn. `finish` is `length` where it ended without an end-of-sequence token.

    `logprob` is the log-probability of the drawn tokens under the sampling distribution, where the
    engine knows it.
    """

    question: str
    sample: int
    seed: int
    text: str
    tokens: int
    finish: Literal["stop", "length"]
    logprob: float | None = None


class Asked(Record, frozen=True, kw_only=True):
    """One row of `questions.jsonl`: all that scoring needs to know of a question."""

    id: str
    answer: str
    solution: str | None = None
    prompt: str = ""
    prompt_tokens: int = 0
    opens_think: bool = False


class Plan(Record, frozen=True, kw_only=True):
    """`plan.json`: what was asked and how. Generations belong together if `key` is the same."""

    key: str
    benchmark: str
    form: Literal["aime", "math"]
    k: int
    chunks: int
    think_end_token: str | None = None
    protocol: dict[str, Any] = msgspec.field(default_factory=dict)


def sample_seed(job: str, benchmark: str, question: str, sample: int) -> int:
    """A sample's seed: 63 bits of SHA-256 over (job, benchmark, question, sample)."""
    name = "\0".join((job, benchmark, question, str(sample)))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


class Store:
    """One benchmark's directory within an attempt, and those of earlier attempts it may read."""

    def __init__(self, directory: Path, plan: Plan, earlier: Sequence[Path] = ()) -> None:
        self.dir = directory
        self.plan = plan
        same = [path for path in earlier if _same_key(path, plan.key)]
        self._sources = (directory, *same) if _same_key(directory, plan.key) else tuple(same)

    def open(self, questions: Iterable[Asked]) -> None:
        """Write the plan and the questions; chunks of another plan in the way are removed."""
        self.dir.mkdir(parents=True, exist_ok=True)
        if self.dir not in self._sources:
            for stale in self.dir.glob("generations-*.jsonl"):
                stale.unlink()
            self._sources = (self.dir, *self._sources)
        fs.publish(self.dir / "questions.jsonl", _lines(questions))
        fs.publish(self.dir / "plan.json", msgspec.json.encode(self.plan) + b"\n")

    def finished(self, chunk: Chunk) -> list[Generation] | None:
        """The chunk's generations where an attempt has finished it, now in this one's files too."""
        for source in self._sources:
            rows = _read_chunk(source / _chunk_name(chunk.index), chunk)
            if rows is not None:
                if source != self.dir:
                    self.save(chunk, rows)
                return rows
        return None

    def save(self, chunk: Chunk, rows: Sequence[Generation]) -> None:
        """Publish a finished chunk: after this it survives anything."""
        fs.publish(self.dir / _chunk_name(chunk.index), _lines(rows))


def read_evaluation(directory: Path) -> tuple[Plan, list[Asked], dict[str, list[Generation]]]:
    """Everything `eval/<benchmark>/` keeps, samples in order by question.

    Raises:
        BenchmarkError: where the directory is incomplete or a sample is missing or doubled.
    """
    try:
        plan = msgspec.json.decode((directory / "plan.json").read_bytes(), type=Plan)
        questions = _read(directory / "questions.jsonl", Asked)
        chunks = [_read(directory / _chunk_name(i), Generation) for i in range(plan.chunks)]
    except (OSError, msgspec.MsgspecError) as error:
        raise BenchmarkError(
            f"the evaluation is not complete: {error}",
            file=directory,
            hint="let the job finish; `jobspec status` says where it stands",
        ) from error
    drawn: dict[str, list[Generation]] = {question.id: [] for question in questions}
    for row in (row for chunk in chunks for row in chunk):
        drawn.setdefault(row.question, []).append(row)
    for name, rows in drawn.items():
        rows.sort(key=lambda row: row.sample)
        if [row.sample for row in rows] != list(range(plan.k)):
            raise BenchmarkError(
                f"question `{name}` has {len(rows)} samples for {plan.k}", file=directory
            )
    return plan, questions, drawn


def _same_key(directory: Path, key: str) -> bool:
    try:
        plan = msgspec.json.decode((directory / "plan.json").read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError):
        return False
    return plan.key == key


def _chunk_name(index: int) -> str:
    return f"generations-{index:05d}.jsonl"


def _read_chunk(path: Path, chunk: Chunk) -> list[Generation] | None:
    """A chunk's rows in the order asked; None where the file is absent or not this chunk's."""
    try:
        rows = _read(path, Generation)
    except (OSError, msgspec.MsgspecError):
        return None
    found = [(row.question, row.sample, row.seed) for row in rows]
    asked = [(wanted.question, wanted.sample, wanted.seed) for wanted in chunk.requests]
    return rows if found == asked else None


def _read(path: Path, kind: type[R]) -> list[R]:
    return [msgspec.json.decode(line, type=kind) for line in path.read_bytes().splitlines()]


def _lines(rows: Iterable[Record]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
