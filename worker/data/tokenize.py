"""Tokenizes one chunk of a data file: writes its rows to a chunk file and returns counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobspec.errors import MalformedRow
from jobspec.storage.layout import PreparedPaths
from worker.data import arrow_files
from worker.data.encode import DropKind, EncodedRow, RefusedRow, RowEncoder, encode_row
from worker.rows.jsonl import FileChunk
from worker.rows.row import RowParser


@dataclass(frozen=True)
class TokenizeTask:
    """What is the same for all chunks.

    Attributes:
        parsers: one for each source.
        wanted: the positions of the rows to use; None for all.
    """

    staged: PreparedPaths
    parsers: tuple[RowParser, ...]
    encoder: RowEncoder
    wanted: set[int] | None = None


@dataclass(frozen=True, slots=True)
class KeptRow:
    """What is counted of a row to train on or to hold out."""

    position: int
    prompt: bytes
    tokens: int
    trained: int
    has_thinking: bool
    thinking_dropped: int
    has_think_end: bool


@dataclass(frozen=True, slots=True)
class DroppedLine:
    """What is counted of a dropped row. Only the first of each kind in a chunk has `text`."""

    position: int
    kind: DropKind
    reason: str
    text: str
    tokens: int | None


@dataclass(slots=True)
class ChunkResult:
    """The kept and dropped rows of a chunk.

    Attributes:
        unrendered: for each field whose text is not rendered, the positions of the kept rows.
    """

    source: int
    rows_in: int = 0
    kept: list[KeptRow] = field(default_factory=list)
    dropped: list[DroppedLine] = field(default_factory=list)
    unrendered: dict[str, list[int]] = field(default_factory=dict)


def tokenize_chunk(task: TokenizeTask, chunk: FileChunk) -> ChunkResult:
    """Tokenize a chunk's rows into its chunk file.

    Raises:
        DataError: a row holds what no valid export has. A malformed row is only dropped.
    """
    result, encoded = ChunkResult(chunk.source), []
    shown: set[DropKind] = set()
    parser = task.parsers[chunk.source]
    for number, line in chunk.rows():
        result.rows_in += 1
        position = chunk.before + number
        if task.wanted is not None and position not in task.wanted:
            continue
        prompt, made = _encode_line(parser, task.encoder, number, line)
        if isinstance(made, RefusedRow):
            text = "" if made.kind in shown else made.text
            shown.add(made.kind)
            dropped = DroppedLine(position, made.kind, made.reason, text, made.length)
            result.dropped.append(dropped)
            continue
        encoded.append((position, made))
        for name in made.unrendered:
            result.unrendered.setdefault(name, []).append(position)
        result.kept.append(_count(position, prompt, made, task.encoder.tags.close))
    arrow_files.write_chunk(task.staged.chunk(chunk.index), encoded)
    return result


def _encode_line(
    parser: RowParser, encoder: RowEncoder, number: int, line: bytes
) -> tuple[bytes, EncodedRow | RefusedRow]:
    """The key of a row's prompt, and the row encoded or refused."""
    try:
        row = parser.parse(line, number)
    except MalformedRow as error:
        return b"", RefusedRow(DropKind.MALFORMED, error.message)
    made = encode_row(row, encoder)
    return b"" if isinstance(made, RefusedRow) else row.prompt_key, made


def _count(position: int, prompt: bytes, row: EncodedRow, think_end: str) -> KeptRow:
    return KeptRow(
        position=position,
        prompt=prompt,
        tokens=len(row.input_ids),
        trained=len(row.input_ids) - row.start,
        has_thinking=row.has_thinking,
        thinking_dropped=row.thinking_dropped,
        has_think_end=think_end in row.text,
    )
