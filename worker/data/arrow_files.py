"""Prepared rows as Arrow files, in the layout of `datasets.save_to_disk`.

They are written with pyarrow, because importing `datasets` takes longer than reading most data
files. A test reads them back with `load_from_disk`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobspec.storage.layout import PreparedPaths, SplitPaths
from worker.data.dataset_cache import IGNORED
from worker.data.encode import EncodedRow
from worker.data.split import Split

_LIST = {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"}
_FEATURES = {"input_ids": _LIST, "labels": _LIST, "row": {"dtype": "int64", "_type": "Value"}}


def write_chunk(path: Path, rows: list[tuple[int, EncodedRow]]) -> None:
    """Write some rows (with their line numbers) as one Arrow file."""
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


def write_splits(prepared: PreparedPaths, chunks: int, split: Split, key: str) -> None:
    """Write the rows of all chunk files, in order, to the two splits, and remove the files."""
    import pyarrow as pa

    with _writer(prepared.train, key) as train, _writer(prepared.eval, key) as held_out:
        for index in range(chunks):
            file = prepared.chunk(index)
            with pa.memory_map(str(file)) as source:
                for batch in pa.ipc.open_stream(source):
                    train.write_rows(batch, split.train)
                    held_out.write_rows(batch, split.held_out)
            file.unlink()


def _schema() -> Any:
    import pyarrow as pa

    metadata = {"huggingface": json.dumps({"info": {"features": _FEATURES}})}
    ids = pa.list_(pa.int32())
    fields = [("input_ids", ids), ("labels", ids), ("row", pa.int64())]
    return pa.schema(fields, metadata=metadata)


@contextmanager
def _writer(split: SplitPaths, fingerprint: str) -> Iterator[_SplitWriter]:
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
    info = {"citation": "", "description": "", "features": _FEATURES, "homepage": "", "license": ""}
    split.state.write_text(json.dumps(state, indent=2))
    split.info.write_text(json.dumps(info, indent=2))
    with pa.OSFile(str(split.rows), "wb") as sink, pa.ipc.new_stream(sink, _schema()) as out:
        writer = _SplitWriter(out)
        yield writer
    np.save(split.counts, np.concatenate(writer.counts, axis=1))


class _SplitWriter:
    """Writes a split's rows and counts their tokens: `counts` has int32 [2, rows] per batch."""

    def __init__(self, out: Any) -> None:
        import numpy as np

        self._out = out
        self.counts = [np.zeros((2, 0), np.int32)]

    def write_rows(self, batch: Any, rows: set[int]) -> None:
        import pyarrow as pa

        numbers = batch.column("row").to_pylist()
        indices = [index for index, number in enumerate(numbers) if number in rows]
        if indices:
            chosen = batch.take(pa.array(indices))
            self._out.write_batch(chosen)
            self.counts.append(_count(chosen.column("labels")))


def _count(labels: Any) -> Any:
    """int32 [2, rows]: the tokens of each row, and those of them that are trained."""
    import numpy as np

    bounds = labels.offsets.to_numpy()
    trained = labels.values.to_numpy() != IGNORED
    trained[bounds[:-1]] = False
    before = np.concatenate([[0], np.cumsum(trained)])
    return np.stack([np.diff(bounds), before[bounds[1:]] - before[bounds[:-1]]]).astype(np.int32)
