"""A chunk of a data file into tokens: the rows go to a piece file, what is counted comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from worker.data import dataset_cache
from worker.data.encode import Chat, Encoded, Kind, Refusal, encode_row, parse_row
from worker.data.jsonl import FileChunk


@dataclass(frozen=True)
class Work:
    """What every chunk needs. `wanted` are line numbers, None meaning all."""

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


def tokenize(work: Work, chunk: FileChunk) -> Done:
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
    dataset_cache.write_piece(work.piece(chunk.index), encoded)
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
