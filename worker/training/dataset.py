"""Chooses the prepared rows for each training step on this rank, and loads them as tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from jobspec.records.mixture import TokenCounts
from jobspec.storage.layout import SplitPaths
from worker.data import batching, dataset_cache
from worker.data.batching import MicroBatch
from worker.data.dataset_cache import IGNORED
from worker.packing.collate import WHOLE, Shard, find_targets, shard
from worker.packing.row_layout import RowLayout


@dataclass(frozen=True)
class Step:
    """One rank's part of a step.

    `lengths`, `trained_tokens` and, in a mixture, `sources` are of the whole global batch.
    """

    micros: tuple[MicroBatch, ...]
    lengths: tuple[int, ...]
    trained_tokens: int
    sources: tuple[TokenCounts, ...] = ()


@dataclass
class Rows:
    """Prepared rows by index, with their lengths and their numbers of trained tokens.

    Attributes:
        names: of the sources of a mixture.
        sources: in a mixture, the index of each row's source.
    """

    data: Any
    lengths: list[int]
    trained: list[int]
    names: tuple[str, ...] = ()
    sources: list[int] = field(default_factory=list)

    @classmethod
    def open(cls, split: SplitPaths, names: tuple[str, ...] = ()) -> Rows:
        """Open the rows of the prepare phase. They are memory-mapped; only the counts are read."""
        import datasets

        data = datasets.load_from_disk(str(split.dir))
        assert isinstance(data, datasets.Dataset)
        sources = dataset_cache.read_sources(split) if names else []
        return cls(data, *dataset_cache.read_counts(split), names, sources)

    def __len__(self) -> int:
        return len(self.lengths)

    def by_source(self, rows: Iterable[int]) -> list[list[int]]:
        """The rows of each source; of a single file, all of them."""
        if not self.names:
            return [list(rows)]
        found: list[list[int]] = [[] for _ in self.names]
        for row in rows:
            found[self.sources[row]].append(row)
        return found

    def count(self, rows: Sequence[int]) -> TokenCounts:
        """The tokens of some rows."""
        return TokenCounts(
            rows=len(rows),
            tokens=sum(self.lengths[row] for row in rows),
            trained_tokens=sum(self.trained[row] for row in rows),
        )


@dataclass
class Schedule:
    """Divides rows into steps, for one of `world` ranks or sequence-parallel groups.

    Attributes:
        micro_batch_size: the most rows of a micro-batch, if `max_tokens` is None.
        max_tokens: the most tokens of a micro-batch; a longer row gets one of its own.
        padded: whether rows are padded to the longest one of their micro-batch.
        multiple: of which the tokens of a line are a multiple, with padding.
    """

    rows: Rows
    seed: int
    batch_size: int
    micro_batch_size: int
    rank: int = 0
    world: int = 1
    max_tokens: int | None = None
    padded: bool = False
    multiple: int = 1
    shard: Shard = WHOLE

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def steps(self, epoch: int) -> Iterator[Step]:
        """This rank's steps of one epoch, in order."""
        lengths = self.rows.lengths
        batches = batching.global_batches(
            lengths, seed=self.seed, epoch=epoch, batch_size=self.batch_size
        )
        for batch in batches:
            yield self.step(batch)

    def step(self, batch: list[int]) -> Step:
        """This rank's part of a global batch."""
        lengths = self.rows.lengths
        if self.max_tokens is None:
            by_rank = batching.micro_batches(
                batch, lengths, world=self.world, size=self.micro_batch_size
            )
        elif self.padded:
            by_rank = batching.padded_batches(
                batch,
                lengths,
                world=self.world,
                max_tokens=self.max_tokens,
                multiple=self.multiple,
            )
        else:
            by_rank = batching.packed_batches(
                batch, lengths, world=self.world, max_tokens=self.max_tokens
            )
        return Step(
            micros=tuple(by_rank[self.rank]),
            lengths=tuple(lengths[row] for row in batch),
            trained_tokens=sum(self.rows.trained[row] for row in batch),
            sources=tuple(map(self.rows.count, self.rows.by_source(batch)))
            if self.rows.names
            else (),
        )

    def tokens_of(self, micro: MicroBatch) -> int:
        """The tokens of a micro-batch on its device, padding included."""
        lengths = [self.rows.lengths[row] for row in micro.rows]
        if self.padded:
            return len(lengths) * batching.round_up(max(lengths), self.multiple)
        return batching.round_up(sum(lengths), self.multiple)

    def in_order(self) -> Iterator[tuple[int, Step]]:
        """This rank's steps over all rows, sorted by length, for evaluation.

        Each comes with the index of its source: a batch has rows of one source only.
        """
        for source, rows in enumerate(self.rows.by_source(range(len(self.rows)))):
            rows.sort(key=self.rows.lengths.__getitem__)
            for start in range(0, len(rows), self.batch_size):
                yield source, self.step(rows[start : start + self.batch_size])


class EpochSampler(Sampler[Step]):
    """Yields steps. The Trainer sets the epoch and, after a resume, skips finished steps."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._epoch = 0

    @property
    def batch_sampler(self) -> EpochSampler:
        # The Trainer calls `set_epoch` on the loader's `batch_sampler`, or after a resume on that
        # object's own `batch_sampler`. This property serves both.
        return self

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before it iterates."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._schedule.steps_per_epoch

    def __iter__(self) -> Iterator[Any]:
        # A DataLoader's batch sampler yields lists of indices; one index here is one step.
        return ([step] for step in self._schedule.steps(self._epoch))


class StepDataset(torch.utils.data.Dataset):
    """Loads the tensors of a step's micro-batches."""

    def __init__(
        self, rows: Rows, pad_token_id: int, *, layout: RowLayout, shard: Shard = WHOLE
    ) -> None:
        self._rows = rows
        self._pad = pad_token_id
        self._layout = layout
        self._shard = shard

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, step: Step) -> dict[str, Any]:
        return {
            "micros": [self._tensors(micro) for micro in step.micros],
            "lengths": step.lengths,
            "trained_tokens": step.trained_tokens,
            "sources": step.sources,
        }

    def _tensors(self, micro: MicroBatch) -> dict[str, torch.Tensor]:
        rows = [self._rows.data[row] for row in micro.rows]
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        labels = [torch.tensor(row["labels"]) for row in rows]
        if micro.weight == 0:
            labels = [torch.full_like(label, IGNORED) for label in labels]
        if self._shard.count > 1:
            line = shard(ids, labels, self._pad, self._shard, self._layout.multiple)
        else:
            line = self._layout.collate(ids, labels, self._pad)
        return line | find_targets(line)


def loader(dataset: StepDataset, sampler: EpochSampler) -> DataLoader:
    """A loader of steps; with a GPU in pinned memory, so that copies are asynchronous."""

    def collate(items: list[Any]) -> Any:
        return items[0]

    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=0,
        pin_memory=torch.cuda.is_available(),
    )
