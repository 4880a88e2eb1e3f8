"""The files that keep a benchmark's samples.

A chunk's generations are published whole when it is finished. A later attempt whose plan has the
same key reads an earlier one's chunks, and those that helpers finished for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from jobspec.records import evaluation
from jobspec.records.evaluation import AskedQuestion, Generation, SamplingPlan
from jobspec.storage import fs
from jobspec.storage.layout import EvaluationPaths, HelpPaths
from worker.inference.requests import SampleChunk


class SampleStore:
    """The samples of one benchmark, in an attempt's directory and in those of earlier attempts.

    Args:
        directory: of the benchmark in this attempt.
        plan: what is sampled.
        earlier: the same directory of earlier attempts.
        helped: shares of earlier attempts (`worker.samples.sharing`).
    """

    def __init__(
        self,
        directory: Path,
        plan: SamplingPlan,
        earlier: Sequence[Path] = (),
        helped: Sequence[HelpPaths] = (),
    ) -> None:
        self.dir = directory
        self.plan = plan
        self._helped = helped
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
        own = EvaluationPaths(self.dir).generations(chunk.index)
        files = [EvaluationPaths(source).generations(chunk.index) for source in self._sources]
        files += [share.result(chunk_name(self.plan.key, chunk.index)) for share in self._helped]
        for file in files:
            rows = read_chunk(file, chunk)
            if rows is not None:
                if file != own:
                    self.save(chunk, rows)
                return rows
        return None

    def save(self, chunk: SampleChunk, rows: Sequence[Generation]) -> None:
        """Publish a finished chunk. From then on a crash cannot lose it."""
        fs.publish(EvaluationPaths(self.dir).generations(chunk.index), evaluation.to_lines(rows))

    def finish(self, plan: SamplingPlan) -> None:
        """Publish the plan as it was carried out; remove the chunks that it does not have."""
        for index in range(plan.chunks, self.plan.chunks):
            EvaluationPaths(self.dir).generations(index).unlink(missing_ok=True)
        fs.publish(EvaluationPaths(self.dir).plan, msgspec.json.encode(plan) + b"\n")
        self.plan = plan


def _same_key(directory: Path, key: str) -> bool:
    try:
        plan = msgspec.json.decode(
            (EvaluationPaths(directory).plan).read_bytes(), type=SamplingPlan
        )
    except (OSError, msgspec.MsgspecError):
        return False
    return plan.key == key


def chunk_name(key: str, index: int) -> str:
    """The name under which a chunk is shared; `key` is the plan's."""
    return f"{key[:16]}-{index:05d}"


def read_chunk(path: Path, chunk: SampleChunk) -> list[Generation] | None:
    """The rows of a chunk in the order of its requests; None if the file is of another chunk."""
    try:
        rows = evaluation.read_rows(path, Generation)
    except (OSError, msgspec.MsgspecError):
        return None
    found = [(row.question, row.sample, row.seed) for row in rows]
    asked = [(wanted.question, wanted.sample, wanted.seed) for wanted in chunk.requests]
    return rows if found == asked else None
