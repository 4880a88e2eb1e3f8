"""What is asked of an engine, and the files that keep what comes back.

A chunk's generations are published whole when it is finished. A later attempt whose plan has the
same key reads an earlier one's chunks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from jobspec.records import evaluation
from jobspec.records.evaluation import Asked, Generation, Plan
from jobspec.storage import fs

__all__ = ["Asked", "Chunk", "Generation", "Plan", "Request", "Sampling", "Store", "sample_seed"]


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
        fs.publish(self.dir / evaluation.QUESTIONS, evaluation.to_lines(questions))
        fs.publish(self.dir / evaluation.PLAN, msgspec.json.encode(self.plan) + b"\n")

    def finished(self, chunk: Chunk) -> list[Generation] | None:
        """The chunk's generations where an attempt has finished it, now in this one's files too."""
        for source in self._sources:
            rows = _read_chunk(source / evaluation.chunk_name(chunk.index), chunk)
            if rows is not None:
                if source != self.dir:
                    self.save(chunk, rows)
                return rows
        return None

    def save(self, chunk: Chunk, rows: Sequence[Generation]) -> None:
        """Publish a finished chunk: after this it survives anything."""
        fs.publish(self.dir / evaluation.chunk_name(chunk.index), evaluation.to_lines(rows))


def _same_key(directory: Path, key: str) -> bool:
    try:
        plan = msgspec.json.decode((directory / evaluation.PLAN).read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError):
        return False
    return plan.key == key


def _read_chunk(path: Path, chunk: Chunk) -> list[Generation] | None:
    """A chunk's rows in the order asked; None where the file is absent or not this chunk's."""
    try:
        rows = evaluation.read_rows(path, Generation)
    except (OSError, msgspec.MsgspecError):
        return None
    found = [(row.question, row.sample, row.seed) for row in rows]
    asked = [(wanted.question, wanted.sample, wanted.seed) for wanted in chunk.requests]
    return rows if found == asked else None
