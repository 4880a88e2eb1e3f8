"""Checks a spec's rows outside of a job, for `validate` and `enqueue`.

    python -m worker.data.check_command --check SPEC.json --root ROOT

It prepares the rows as the prepare phase does and prints their report as JSON. It exits with code 3
and prints `{"error": {...}}` if the spec, its data or its model is refused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobspec.records.reports import Passes, RowReport
from jobspec.spec import parsing
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import PreparedPaths, RootPaths, SplitPaths
from worker.answer import answer
from worker.data import batching, dataset_cache
from worker.data.pipeline import prepare
from worker.program import run_program


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker.data.check_command")
    parser.add_argument("--check", type=Path, metavar="SPEC", required=True)
    parser.add_argument("--root", type=Path, required=True)
    asked = parser.parse_args()
    root = RootPaths(asked.root.absolute())
    sys.exit(answer(lambda: check(parsing.load(asked.check), root)))


def check(spec: JobSpec, root: RootPaths) -> RowReport:
    """Prepare a spec's rows, and count the micro-batches of an epoch."""
    report = prepare(spec, root)
    passes, longest = count_micro_batches(spec, PreparedPaths(root.root / report.dir).train)
    return RowReport.of(report, passes, longest)


def count_micro_batches(spec: JobSpec, split: SplitPaths) -> tuple[Passes, int]:
    """The micro-batches of an epoch on one device, packed and not, and the longest one's tokens."""
    train, (lengths, _) = spec.train, dataset_cache.read_counts(split)
    if train is None or not lengths:
        return Passes(), 0
    packs = passes = longest = 0
    size, most = train.per_device_train_batch_size, train.max_length
    batches = batching.global_batches(
        lengths, seed=train.seed, epoch=0, batch_size=train.global_batch_size
    )
    for batch in batches:
        (plain,) = batching.micro_batches(batch, lengths, world=1, size=size)
        (packed,) = batching.packed_batches(batch, lengths, world=1, max_tokens=most)
        passes, packs = passes + len(plain), packs + len(packed)
        for micro in packed if train.packing else plain:
            longest = max(longest, sum(lengths[row] for row in micro.rows))
    return Passes(unpacked=passes, packed=packs), longest


if __name__ == "__main__":
    run_program(main)
