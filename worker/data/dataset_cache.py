"""The dataset cache: prepared rows in one directory per content key, published atomically."""

from __future__ import annotations

import os
from pathlib import Path

from jobspec.records import base as records
from jobspec.records.reports import DatasetReport
from jobspec.storage import fs
from jobspec.storage.layout import PreparedPaths, SplitPaths

IGNORED = -100  # the label of a context token: no loss is computed on it


def read_counts(split: SplitPaths) -> tuple[list[int], list[int]]:
    """The tokens and the trained tokens of each row of a split, in order.

    A row's first token is never trained: nothing comes before it. Reads 8 bytes per row.
    """
    import numpy as np

    lengths, trained = np.load(split.counts, allow_pickle=False)[:2].tolist()
    return lengths, trained


def read_sources(split: SplitPaths) -> list[int]:
    """The index of each row's source in a mixture; 0 for all rows of a single file."""
    import numpy as np

    counts = np.load(split.counts, allow_pickle=False)
    return counts[2].tolist() if len(counts) > 2 else [0] * counts.shape[1]


def file_sizes(prepared: PreparedPaths) -> dict[str, int]:
    """The size of every data file by its relative name. `find` compares them."""
    splits = (prepared.train, prepared.eval)
    files = [file for split in splits for file in (split.rows, split.counts)]
    return {str(file.relative_to(prepared.dir)): file.stat().st_size for file in files}


def find(prepared: PreparedPaths) -> DatasetReport | None:
    """The report of prepared rows; None if there are none, or if some files were purged."""
    report = records.read(prepared.report, DatasetReport)
    try:
        return report if report is not None and report.file_sizes == file_sizes(prepared) else None
    except (FileNotFoundError, NotADirectoryError):
        return None


def publish(staged: PreparedPaths, prepared: PreparedPaths, report: DatasetReport) -> None:
    """Rename staged rows to their key's directory, complete and durable.

    If another process published the same key first, its rows stay. An incomplete directory (see
    `find`) is deleted first.
    """
    fs.publish(staged.report, records.encode(report))
    for split in (staged.train, staged.eval):
        for path in split.dir.iterdir():
            _sync(path)
        fs.sync_dir(split.dir)
    fs.sync_dir(staged.dir)
    if fs.exists(prepared.dir) and find(prepared) is None:
        fs.discard(prepared.dir, into=prepared.dir.parent)
    fs.place_dir(staged.dir, prepared.dir)
    fs.sync_dir(prepared.dir.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
