"""Finds rows of a data file that repeat each other, exactly or nearly, and counts characters.

It reads the rows as they are in the file; no tokenizer or template is needed. Near duplicates need
numpy.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from jobspec.errors import MalformedRow
from jobspec.records.overview import Duplicates, NearDuplicate
from worker.rows import parallel_map
from worker.rows.data_sources import DataSources
from worker.rows.jsonl import FileChunk
from worker.rows.row import ChatRow, RowParser

MOST_ROWS = 500_000  # compared with each other; their signatures take 192 MB
_EXAMPLES = 5


@dataclass(slots=True)
class RowTexts:
    """What is remembered of the rows that are conversations.

    Attributes:
        numbers: their lines, counted from 1 and on from file to file.
        digests: equal for rows with the same messages and tools.
        characters: of all texts of a row.
        signatures: 384 bytes per row for `minhash`; of the first `MOST_ROWS`.
        malformed: number of other rows.
    """

    numbers: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    signatures: list[bytes] = field(default_factory=list)
    malformed: int = 0

    def add(self, other: RowTexts) -> None:
        room = MOST_ROWS - len(self.numbers)
        self.numbers += other.numbers
        self.digests += other.digests
        self.characters += other.characters
        self.malformed += other.malformed
        if room > 0 and other.signatures:
            size = len(other.signatures[0]) // len(other.numbers)
            self.signatures.append(other.signatures[0][: room * size])


def read(sources: DataSources) -> RowTexts:
    """Read all rows, on all cores. Forks: call it before numpy is imported."""
    found = RowTexts()
    near = importlib.util.find_spec("numpy") is not None
    task = partial(_read_chunk, sources.parsers, near)
    for part in parallel_map.map_in_order(task, sources.scan.chunks):
        found.add(part)
    return found


def find(texts: RowTexts) -> Duplicates:
    """The rows that repeat an earlier one, exactly or nearly. Needs numpy for the latter."""
    firsts: dict[bytes, int] = {}
    exact: list[tuple[int, int]] = []
    for number, digest in zip(texts.numbers, texts.digests, strict=True):
        earlier = firsts.setdefault(digest, number)
        if earlier != number:
            exact.append((number, earlier))
    found = Duplicates(exact_rows=len(exact), exact_examples=tuple(exact[:_EXAMPLES]))
    if not texts.signatures:
        return found
    near = _find_near(texts, {number for number, _ in exact})
    return msgspec.structs.replace(
        found,
        near_rows=len(near),
        near_examples=tuple(near[:_EXAMPLES]),
        compared=min(len(texts.numbers), MOST_ROWS),
    )


def _find_near(texts: RowTexts, repeated: set[int]) -> list[NearDuplicate]:
    """Each row that is similar to an earlier one, with the first such row; no exact repeats."""
    import numpy as np

    from worker.preview import minhash

    signatures = np.frombuffer(b"".join(texts.signatures), dtype=np.uint32)
    signatures = signatures.reshape(-1, minhash.MINIMA)
    numbers = texts.numbers[: len(signatures)]
    own = np.array([at for at, number in enumerate(numbers) if number not in repeated])
    pairs = minhash.find_similar(signatures[own])
    _, firsts = np.unique(pairs[:, 1], return_index=True)
    earlier, later = own[pairs[firsts]].T
    shares = minhash.similarity(signatures, earlier, later)
    return [
        NearDuplicate(row=numbers[second], earlier=numbers[first], similarity=round(share, 2))
        for first, second, share in zip(
            earlier.tolist(), later.tolist(), shares.tolist(), strict=True
        )
    ]


def _read_chunk(parsers: Sequence[RowParser], near: bool, chunk: FileChunk) -> RowTexts:
    found, joined, parser = RowTexts(), list[str](), parsers[chunk.source]
    for number, line in chunk.rows():
        try:
            row = parser.parse(line, number)
        except MalformedRow:
            found.malformed += 1
            continue
        texts = row.texts()
        found.numbers.append(chunk.before + number)
        found.digests.append(_digest(row))
        found.characters.append(sum(map(len, texts)))
        joined.append("\n".join(texts))
    if near and joined:
        from worker.preview import minhash

        found.signatures.append(minhash.sign(joined).tobytes())
    return found


def _digest(row: ChatRow) -> bytes:
    data = msgspec.json.encode((row.messages, row.tools), order="sorted")
    return hashlib.blake2b(data, digest_size=16).digest()
