"""The files that keep a benchmark's samples.

A chunk's generations are published whole when it is finished. A later attempt whose plan has the
same key reads an earlier one's chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from jobspec.records import evaluation
from jobspec.records.evaluation import AskedQuestion, Generation, SamplingPlan
from jobspec.storage import fs
from jobspec.storage.layout import EvaluationPaths
from worker.inference.requests import SampleChunk


class SampleStore:
    """The samples of one benchmark, in an attempt's directory and in those of earlier attempts."""

    def __init__(self, directory: Path, plan: SamplingPlan, earlier: Sequence[Path] = ()) -> None:
        self.dir = directory
        self.plan = plan
        same = [path for path in earlier if _same_key(path, plan.key)]
        self._sources = (directory, *same) if _same_key(directory, plan.key) else tuple(same)

    def open(self, questions: Iterable[AskedQuestion]) -> None:
        """Write the plan and the questions; remove chunks that belong to another plan."""
        self.dir.mkdir(parents=True, exist_ok=True)
        if self.dir not in self._sources:
            for stale in self.dir.glob("generations-*.jsonl"):
                stale.unlink()
            self._sources = (self.dir, *self._sources)
        fs.publish(EvaluationPaths(self.dir).questions, evaluation.to_lines(questions))
        fs.publish(EvaluationPaths(self.dir).plan, msgspec.json.encode(self.plan) + b"\n")

    def finished(self, chunk: SampleChunk) -> list[Generation] | None:
        """The generations of a chunk that any attempt finished, copied to this attempt."""
        for source in self._sources:
            rows = _read_chunk(EvaluationPaths(source).generations(chunk.index), chunk)
            if rows is not None:
                if source != self.dir:
                    self.save(chunk, rows)
                return rows
        return None

    def save(self, chunk: SampleChunk, rows: Sequence[Generation]) -> None:
        """Publish a finished chunk. From then on a crash cannot lose it."""
        fs.publish(EvaluationPaths(self.dir).generations(chunk.index), evaluation.to_lines(rows))


def _same_key(directory: Path, key: str) -> bool:
    try:
        plan = msgspec.json.decode(
            (EvaluationPaths(directory).plan).read_bytes(), type=SamplingPlan
        )
    except (OSError, msgspec.MsgspecError):
        return False
    return plan.key == key


def _read_chunk(path: Path, chunk: SampleChunk) -> list[Generation] | None:
    """The rows of a chunk in the order of its requests; None if the file is of another chunk."""
    try:
        rows = evaluation.read_rows(path, Generation)
    except (OSError, msgspec.MsgspecError):
        return None
    found = [(row.question, row.sample, row.seed) for row in rows]
    asked = [(wanted.question, wanted.sample, wanted.seed) for wanted in chunk.requests]
    return rows if found == asked else None
