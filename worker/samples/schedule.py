"""The chunks of all benchmarks: which are done, which are left, and in which order they are asked.

Chunks of benchmarks without a stop rule come first, in the order of the spec. Those with a rule
follow round by round, so that all of them progress.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jobspec.records.evaluation import Generation
from worker.inference.requests import SampleChunk
from worker.samples.sample_store import SampleStore, chunk_name
from worker.samples.sharing import ChunkShare, shared_benchmark
from worker.samples.stopping import StopDecision


class BenchmarkWork(NamedTuple):
    """A benchmark's store of samples, its chunks, and what may end its sampling early."""

    store: SampleStore
    chunks: Sequence[SampleChunk]
    stop: StopDecision | None = None

    def wanted(self) -> list[SampleChunk]:
        """The chunks whose samples are used, as far as that is known."""
        stop = self.stop
        return [chunk for chunk in self.chunks if stop is None or stop.wants(chunk)]


class ChunkSchedule:
    """Keeps account of the chunks of several benchmarks."""

    def __init__(self, work: Sequence[BenchmarkWork]) -> None:
        self._work = work
        self._of = {_name(chunk): each for each in work for chunk in each.chunks}
        ruled = [each for each in work if each.stop is not None]
        self._order = [chunk for each in work if each.stop is None for chunk in each.chunks]
        self._order += sorted((chunk for each in ruled for chunk in each.chunks), key=_round)
        self._results: dict[tuple[str, int], list[Generation]] = {}
        self._asked: set[tuple[str, int]] = set()
        self._share: ChunkShare | None = None

    def read_finished(self) -> None:
        """Take the chunks that some attempt has finished."""
        for chunk in self._order:
            rows = self._of[_name(chunk)].store.finished(chunk) if self._wants(chunk) else None
            if rows is not None:
                self._keep(chunk, rows)

    def share(self, share: ChunkShare) -> None:
        """Offer idle workers the chunks that are left, of benchmarks without a stop rule."""
        self._share = share
        shared = [
            (each.store.plan.key, left)
            for each in self._work
            if each.stop is None
            and (left := [chunk for chunk in each.chunks if _name(chunk) not in self._results])
        ]
        share.offer([shared_benchmark(key, left) for key, left in shared])

    def left(self) -> Iterator[SampleChunk]:
        """The chunks to generate. A chunk that is no longer wanted is left out."""
        order = self._order
        if self._share is not None:
            yield from self._share.mine()
            order = [chunk for chunk in order if self._of[_name(chunk)].stop is not None]
        for chunk in order:
            if self._wants(chunk) and _name(chunk) not in self._results:
                self._asked.add(_name(chunk))
                yield chunk

    def save(self, chunk: SampleChunk, rows: list[Generation]) -> None:
        """Publish a chunk that was generated."""
        if self._wants(chunk):
            store = self._of[_name(chunk)].store
            store.save(chunk, rows)
            self._keep(chunk, rows)
            if self._share is not None:
                self._share.finish(chunk_name(store.plan.key, chunk.index))

    def collect(self) -> None:
        """Publish what helpers have generated."""
        for chunk, rows in self._share.collect() if self._share is not None else ():
            self.save(chunk, rows)

    def wait(self) -> Iterator[None]:
        """Publish what helpers still generate; ends when the rest is for this process."""
        for finished in self._share.wait() if self._share is not None else ():
            for chunk, rows in finished:
                self.save(chunk, rows)
            yield

    def counts(self) -> tuple[int, int]:
        """The samples that are done, and those that are wanted as far as that is known."""
        wanted = [chunk for each in self._work for chunk in each.wanted()]
        done = sum(len(chunk.requests) for chunk in wanted if _name(chunk) in self._results)
        return done, sum(len(chunk.requests) for chunk in wanted)

    def discarded(self, work: BenchmarkWork) -> int:
        """The samples that an engine was asked for and that are not wanted any more."""
        wanted = {_name(chunk) for chunk in work.wanted()}
        asked = (chunk for chunk in work.chunks if _name(chunk) in self._asked - wanted)
        return sum(len(chunk.requests) for chunk in asked)

    def samples(self, work: BenchmarkWork) -> dict[str, list[Generation]]:
        """A benchmark's samples by question, ordered by their number."""
        samples: dict[str, list[Generation]] = {}
        for chunk in work.wanted():
            for row in self._results[_name(chunk)]:
                samples.setdefault(row.question, []).append(row)
        for rows in samples.values():
            rows.sort(key=lambda row: row.sample)
        return samples

    def _wants(self, chunk: SampleChunk) -> bool:
        stop = self._of[_name(chunk)].stop
        return stop is None or stop.wants(chunk)

    def _keep(self, chunk: SampleChunk, rows: list[Generation]) -> None:
        self._results[_name(chunk)] = rows
        stop = self._of[_name(chunk)].stop
        if stop is not None:
            stop.add(chunk, rows)


def _round(chunk: SampleChunk) -> int:
    return chunk.round


def _name(chunk: SampleChunk) -> tuple[str, int]:
    return chunk.benchmark, chunk.index
