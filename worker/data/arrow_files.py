"""Prepared rows as Arrow files, in the layout of `datasets.save_to_disk`.

They are written with pyarrow, because importing `datasets` takes longer than reading most data
files. A test reads them back with `load_from_disk`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobspec.storage.layout import PreparedPaths, SplitPaths
from worker.data.dataset_cache import IGNORED
from worker.data.encode import EncodedRow
from worker.data.split import Split
from worker.rows.jsonl import FileChunk

_LIST = {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"}
_FEATURES = {"input_ids": _LIST, "labels": _LIST, "row": {"dtype": "int64", "_type": "Value"}}
_SOURCE = {"source": {"dtype": "int32", "_type": "Value"}}  # only in mixtures


def write_chunk(path: Path, rows: list[tuple[int, EncodedRow]]) -> None:
    """Write some rows (with their positions) as one Arrow file."""
    import numpy as np
    import pyarrow as pa

    lengths = np.array([len(row.input_ids) for _, row in rows], dtype=np.int64)
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    empty = np.zeros(0, dtype=np.int32)
    ids = np.concatenate([empty, *(np.array(row.input_ids, np.int32) for _, row in rows)])
    labels = np.concatenate([empty, *(np.array(row.labels, np.int32) for _, row in rows)])
    columns = [
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(part)) for part in (ids, labels)
    ]
    numbers = pa.array([number for number, _ in rows], pa.int64())
    batch = pa.record_batch([*columns, numbers], schema=_schema())
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)


def write_splits(
    prepared: PreparedPaths, chunks: Sequence[FileChunk], split: Split, key: str, *, mixed: bool
) -> None:
    """Write the rows of all chunk files, in order, to the two splits, and remove the files.

    A row that is trained on n times is written n times. In a mixture (`mixed`) each row also has
    the index of its source, and `row` is its number in that source's file.
    """
    import pyarrow as pa

    once = dict.fromkeys(split.held_out, 1)
    writers = (_writer(paths, key, mixed=mixed) for paths in (prepared.train, prepared.eval))
    with next(writers) as train, next(writers) as held_out:
        for chunk in chunks:
            file = prepared.chunk(chunk.index)
            with pa.memory_map(str(file)) as source:
                for batch in pa.ipc.open_stream(source):
                    train.write_rows(batch, split.train, chunk)
                    held_out.write_rows(batch, once, chunk)
            file.unlink()


def _schema(*, mixed: bool = False) -> Any:
    import pyarrow as pa

    features = _FEATURES | _SOURCE if mixed else _FEATURES
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    ids = pa.list_(pa.int32())
    fields = [("input_ids", ids), ("labels", ids), ("row", pa.int64())]
    return pa.schema([*fields, ("source", pa.int32())] if mixed else fields, metadata=metadata)


@contextmanager
def _writer(split: SplitPaths, fingerprint: str, *, mixed: bool) -> Iterator[_SplitWriter]:
    import numpy as np
    import pyarrow as pa

    split.dir.mkdir()
    state = {
        "_data_files": [{"filename": split.rows.name}],
        "_fingerprint": f"{fingerprint[:16]}-{split.dir.name}",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    features = _FEATURES | _SOURCE if mixed else _FEATURES
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    split.state.write_text(json.dumps(state, indent=2))
    split.info.write_text(json.dumps(info, indent=2))
    schema = _schema(mixed=mixed)
    with pa.OSFile(str(split.rows), "wb") as sink, pa.ipc.new_stream(sink, schema) as out:
        writer = _SplitWriter(out, mixed=mixed)
        yield writer
    np.save(split.counts, np.concatenate(writer.counts, axis=1))


class _SplitWriter:
    """Writes a split's rows and counts their tokens.

    `counts` has int32 [2, rows] per batch: tokens and trained tokens. In a mixture it has a third
    line, the index of each row's source.
    """

    def __init__(self, out: Any, *, mixed: bool) -> None:
        import numpy as np

        self._out = out
        self._mixed = mixed
        self.counts = [np.zeros((2 + mixed, 0), np.int32)]

    def write_rows(self, batch: Any, times: Mapping[int, int], chunk: FileChunk) -> None:
        """Write the rows of a chunk, each as often as `times` says for its position."""
        wanted = [times.get(position, 0) for position in batch.column("row").to_pylist()]
        for done in range(max(wanted, default=0)):
            self._write([index for index, n in enumerate(wanted) if n > done], batch, chunk)

    def _write(self, indices: list[int], batch: Any, chunk: FileChunk) -> None:
        import numpy as np
        import pyarrow as pa

        chosen = batch.take(pa.array(indices))
        counts = _count(chosen.column("labels"))
        if self._mixed:
            sources = np.full(len(indices), chunk.source, np.int32)
            numbers = chosen.column("row").to_numpy() - chunk.before
            columns = [chosen.column("input_ids"), chosen.column("labels"), pa.array(numbers)]
            schema = _schema(mixed=True)
            chosen = pa.record_batch([*columns, pa.array(sources)], schema=schema)
            counts = np.concatenate([counts, sources[None]])
        self._out.write_batch(chosen)
        self.counts.append(counts)


def _count(labels: Any) -> Any:
    """int32 [2, rows]: the tokens of each row, and those of them that are trained."""
    import numpy as np

    bounds = labels.offsets.to_numpy()
    trained = labels.values.to_numpy() != IGNORED
    trained[bounds[:-1]] = False
    before = np.concatenate([[0], np.cumsum(trained)])
    return np.stack([np.diff(bounds), before[bounds[1:]] - before[bounds[:-1]]]).astype(np.int32)
