"""Rows into tokens on every core: a pool of processes, a chunk of the file at a time.

The processes are forked, so that the tokenizer (half a second to load) is loaded once and shared.
Each writes its rows to a piece file and sends back only what is counted.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from worker import shelf
from worker.reading import Chunk
from worker.rows import Chat, Encoded, Kind, Refusal, encode_row, parse_row


@dataclass(frozen=True)
class Work:
    """What every process of the pool needs. `wanted` are line numbers, None meaning all."""

    file: Path
    directory: Path
    chat: Chat
    wanted: set[int] | None = None

    def piece(self, index: int) -> Path:
        return self.directory / f"piece-{index:06d}.arrow"

    def pieces(self, count: int) -> list[Path]:
        return [self.piece(index) for index in range(count)]


@dataclass(frozen=True, slots=True)
class Kept:
    """What is counted of a row that is trained on."""

    number: int
    prompt: bytes
    tokens: int
    trained: int
    has_thinking: bool
    thinking_dropped: int
    has_think_end: bool


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is not; `text` is given for the first of its kind in a chunk."""

    number: int
    kind: Kind
    reason: str
    text: str
    tokens: int | None


@dataclass(slots=True)
class Done:
    """A chunk's outcome."""

    rows_in: int = 0
    kept: list[Kept] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)


def run_pool(work: Work, chunks: list[Chunk], processes: int | None = None) -> Iterator[Done]:
    """Every chunk's outcome, in the file's order.

    Args:
        processes: how many; all cores this process may use if None. One runs right here.
    """
    count = min(processes or len(os.sched_getaffinity(0)), len(chunks))
    if count == 1:
        yield from (tokenize(work, chunk) for chunk in chunks)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(count, context, initializer=_adopt, initargs=(work,)) as pool:
        # A window, not `map`: it would read ahead through all chunks and hold every outcome.
        waiting: deque[Future[Done]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_tokenize_adopted, chunk))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def tokenize(work: Work, chunk: Chunk) -> Done:
    """Tokenize a chunk's rows into its piece file. Raises DataError at the first malformed row."""
    done, encoded = Done(), []
    rows = [parse_row(line, number, work.file) for number, line in chunk.rows(work.file)]
    done.rows_in = len(rows)
    shown: set[Kind] = set()
    for row in rows:
        if work.wanted is not None and row.number not in work.wanted:
            continue
        made = encode_row(row, work.chat)
        if isinstance(made, Refusal):
            text = "" if made.kind in shown else made.text
            shown.add(made.kind)
            done.dropped.append(Dropped(row.number, made.kind, made.reason, text, made.length))
            continue
        encoded.append((row.number, made))
        done.kept.append(_count(row.number, row.prompt_key, made, work.chat.tags.close))
    shelf.write_piece(work.piece(chunk.index), encoded)
    return done


def _count(number: int, prompt: bytes, row: Encoded, think_end: str) -> Kept:
    return Kept(
        number=number,
        prompt=prompt,
        tokens=len(row.input_ids),
        trained=len(row.input_ids) - row.start,
        has_thinking=row.has_thinking,
        thinking_dropped=row.thinking_dropped,
        has_think_end=think_end in row.text,
    )


_adopted: list[Work] = []


def _adopt(work: Work) -> None:
    _adopted[:] = [work]


def _tokenize_adopted(chunk: Chunk) -> Done:
    return tokenize(_adopted[0], chunk)
