"""Rows of Parquet and Arrow files as lines of JSON. Needs pyarrow, which starts threads."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from jobspec.errors import DataError

_BATCH_ROWS = 1000


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each row of a table as one line of JSON, with its number, counted from 1.

    A column of structs has every field in every row; those that are null are left out.

    Raises:
        DataError: the file is damaged, or a value has no form in JSON.
    """
    import pyarrow as pa

    number = 0
    try:
        for batch in _batches(path):
            for row in batch.to_pylist():
                number += 1
                yield number, msgspec.json.encode(_without_nulls(row))
    except (pa.ArrowException, OSError, TypeError) as error:
        raise DataError(
            f"can't be read as a table: {error}",
            file=path,
            place=f"after row {number}",
            hint="is it still being written? Columns must hold what JSON can",
        ) from error


def open_zstd(path: Path) -> BinaryIO:
    """Open a zstd file with pyarrow, which the worker always has."""
    import pyarrow as pa

    stream = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
    return io.BufferedReader(cast("Any", stream))  # the stream itself reads no lines


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(b"PAR1"):
        yield from pq.ParquetFile(path).iter_batches(_BATCH_ROWS)
        return
    with pa.memory_map(str(path)) as source:
        if magic == b"ARROW1":
            reader = pa.ipc.open_file(source)
            yield from map(reader.get_batch, range(reader.num_record_batches))
        else:
            yield from pa.ipc.open_stream(source)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value
