"""Prepared rows on disk: written in pieces by many processes, shelved whole under their key.

The layout is the one of `datasets.save_to_disk`, written with pyarrow alone, because importing
`datasets` costs more than reading most data files. A test reads it back with `load_from_disk`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobspec.records import base as records
from jobspec.records.reports import DatasetReport
from jobspec.storage import fs, tempfiles

if TYPE_CHECKING:
    from worker.data.encode import Encoded
    from worker.data.split import Dealt

DATA = "data-00000-of-00001.arrow"
COUNTS = "counts.npy"
IGNORED = -100  # the label of a token that is context
REPORT = "prepared.json"
SPLITS = ("train", "eval")
_LIST = {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"}
_FEATURES = {"input_ids": _LIST, "labels": _LIST, "row": {"dtype": "int64", "_type": "Value"}}


def write_piece(path: Path, rows: list[tuple[int, Encoded]]) -> None:
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


def write_splits(directory: Path, pieces: list[Path], dealt: Dealt, key: str) -> None:
    """Write the pieces' rows, in order, to `train/` and `eval/`, and remove the pieces."""
    import pyarrow as pa

    with _writer(directory / "train", key) as train, _writer(directory / "eval", key) as held_out:
        for piece in pieces:
            with pa.memory_map(str(piece)) as source:
                for batch in pa.ipc.open_stream(source):
                    train.write_those(batch, dealt.train)
                    held_out.write_those(batch, dealt.held_out)
            piece.unlink()


def counts(split: Path) -> tuple[list[int], list[int]]:
    """The tokens and the trained tokens of each row of a shelved split, in order.

    A row's first token is never trained: nothing comes before it. 8 bytes a row are read.
    """
    import numpy as np

    lengths, trained = np.load(split / COUNTS, allow_pickle=False).tolist()
    return lengths, trained


def sizes(directory: Path) -> dict[str, int]:
    """The size of every data file, for `find` to compare."""
    files = [Path(split) / name for split in SPLITS for name in (DATA, COUNTS)]
    return {str(file): (directory / file).stat().st_size for file in files}


def find(directory: Path) -> DatasetReport | None:
    """The report of rows shelved whole; None where there are none, or a purge took some of them."""
    report = records.read(directory / REPORT, DatasetReport)
    try:
        return report if report is not None and report.file_sizes == sizes(directory) else None
    except (FileNotFoundError, NotADirectoryError):
        return None


def shelve(staged: Path, directory: Path, report: DatasetReport) -> None:
    """Make the staged rows appear under their key, all at once; whoever was first stays.

    What stands there without being whole (see `find`) is removed first.
    """
    fs.publish(staged / REPORT, records.encode(report))
    for split in SPLITS:
        for path in (staged / split).iterdir():
            _sync(path)
        fs.sync_dir(staged / split)
    fs.sync_dir(staged)
    if fs.exists(directory) and find(directory) is None:
        damaged = tempfiles.beside(directory)
        if fs.move_once(directory, damaged):
            fs.remove_tree(damaged)
    fs.place_dir(staged, directory)
    fs.sync_dir(directory.parent)


def _schema() -> Any:
    import pyarrow as pa

    metadata = {"huggingface": json.dumps({"info": {"features": _FEATURES}})}
    ids = pa.list_(pa.int32())
    fields = [("input_ids", ids), ("labels", ids), ("row", pa.int64())]
    return pa.schema(fields, metadata=metadata)


@contextmanager
def _writer(directory: Path, fingerprint: str) -> Iterator[_Split]:
    import numpy as np
    import pyarrow as pa

    directory.mkdir()
    state = {
        "_data_files": [{"filename": DATA}],
        "_fingerprint": f"{fingerprint[:16]}-{directory.name}",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    info = {"citation": "", "description": "", "features": _FEATURES, "homepage": "", "license": ""}
    (directory / "state.json").write_text(json.dumps(state, indent=2))
    (directory / "dataset_info.json").write_text(json.dumps(info, indent=2))
    with pa.OSFile(str(directory / DATA), "wb") as sink, pa.ipc.new_stream(sink, _schema()) as out:
        split = _Split(out)
        yield split
    np.save(directory / COUNTS, np.concatenate(split.counts, axis=1))


class _Split:
    """A split on its way to disk. `counts`: int32 [2, rows] of each batch, see `counts`."""

    def __init__(self, out: Any) -> None:
        import numpy as np

        self._out = out
        self.counts = [np.zeros((2, 0), np.int32)]

    def write_those(self, batch: Any, rows: set[int]) -> None:
        import pyarrow as pa

        numbers = batch.column("row").to_pylist()
        indices = [index for index, number in enumerate(numbers) if number in rows]
        if indices:
            taken = batch.take(pa.array(indices))
            self._out.write_batch(taken)
            self.counts.append(_count(taken.column("labels")))


def _count(labels: Any) -> Any:
    """int32 [2, rows]: the tokens of each row, and those of them that are trained."""
    import numpy as np

    bounds = labels.offsets.to_numpy()
    trained = labels.values.to_numpy() != IGNORED
    trained[bounds[:-1]] = False
    before = np.concatenate([[0], np.cumsum(trained)])
    return np.stack([np.diff(bounds), before[bounds[1:]] - before[bounds[:-1]]]).astype(np.int32)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
