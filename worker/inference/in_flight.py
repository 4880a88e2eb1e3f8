"""The chunks that an engine of continuous batching works on: many at a time, each stored whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from jobspec.records.evaluation import Generation
from worker.inference.requests import ResponseRules, SampleChunk, SampleRequest


class ChunksInFlight:
    """Takes chunks while fewer than `most` of their samples are being generated.

    A sample has an id that is unique in this object. Samples may end in any order.
    """

    def __init__(self, chunks: Iterator[SampleChunk], most: int) -> None:
        self._chunks = chunks
        self._most = most
        self._numbers = itertools.count()
        self._open: dict[int, _OpenChunk] = {}
        self._more = True

    def admit(self) -> Iterator[tuple[str, SampleRequest, SampleChunk]]:
        """Take chunks as long as there is room, and yield the id of each sample and its chunk."""
        while self._more and self.samples < self._most:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._more = False
                return
            number = next(self._numbers)
            self._open[number] = _OpenChunk(chunk)
            for place, request in enumerate(chunk.requests):
                yield f"{number}.{place}", request, chunk

    @property
    def samples(self) -> int:
        """How many samples are being generated."""
        return sum(held.left for held in self._open.values())

    def request(self, name: str) -> tuple[SampleRequest, ResponseRules]:
        """The request of a sample's id, and the rules of its response."""
        number, place = (int(part) for part in name.split("."))
        chunk = self._open[number].chunk
        return chunk.requests[place], chunk.rules

    def finish(self, name: str, row: Generation) -> Iterator[tuple[SampleChunk, list[Generation]]]:
        """Store a sample; yields its chunk with all samples if it was the chunk's last one."""
        number, place = (int(part) for part in name.split("."))
        held = self._open[number]
        held.fill(place, row)
        if held.left == 0:
            del self._open[number]
            yield held.chunk, held.rows


class _OpenChunk:
    """A chunk with samples that have not ended yet."""

    def __init__(self, chunk: SampleChunk) -> None:
        self.chunk = chunk
        self.left = len(chunk.requests)
        self._rows: list[Generation | None] = [None] * self.left

    def fill(self, place: int, row: Generation) -> None:
        self._rows[place] = row
        self.left -= 1

    @property
    def rows(self) -> list[Generation]:
        return [row for row in self._rows if row is not None]
