"""Checks or previews a spec's rows outside of a job, for `validate`, `enqueue` and `preview`.

    python -m worker.data.check_command --check SPEC.json --root ROOT
    python -m worker.data.check_command --preview SPEC.json --row N [--source NAME] --root ROOT

`--check` prepares the rows as the prepare phase does and prints their report as JSON; `--preview`
prints which tokens of one row are trained. Both exit with code 3 and print `{"error": {...}}` if
the spec, its data or its model is refused.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from jobspec.errors import DataError, JobspecError
from jobspec.records import base as records
from jobspec.records import exit_codes
from jobspec.records.answers import ErrorAnswer, ErrorDetails, Preview
from jobspec.records.reports import Passes, RowReport
from jobspec.spec import parsing
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import PreparedPaths, RootPaths, SplitPaths
from worker.data import batching, dataset_cache
from worker.data.cache_key import PrepareInputs
from worker.data.encode import EncodedRow, encode_row
from worker.data.pipeline import prepare
from worker.rows import row_source
from worker.rows.data_sources import DataSource


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker.data.check_command")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--check", type=Path, metavar="SPEC")
    asked.add_argument("--preview", type=Path, metavar="SPEC")
    parser.add_argument("--row", type=int, default=1, help="counted from 1")
    parser.add_argument("--source", help="name of the row's source in a mixture")
    parser.add_argument("--root", type=Path, required=True)
    sys.exit(_answer(parser.parse_args()))


def preview(spec: JobSpec, root: RootPaths, number: int, source: str | None = None) -> Preview:
    """Which tokens of one row are trained. `number` is its line, counted from 1.

    Args:
        source: the name of its source in a mixture; by default the first one.

    Raises:
        DataError: there is no such source or row.
    """
    inputs = PrepareInputs.of(spec, root)
    found = _source(inputs, source)
    stored = row_source.describe(found.file)
    with row_source.rows_named_by_file(found.file):
        row = found.parser.parse(row_source.read_line(found.file, number), number)
    format_ = f"{stored}, rows in the format `{row.format}`"
    encoder = inputs.encoder()
    encoded = encode_row(row, encoder)
    if not isinstance(encoded, EncodedRow):
        dropped = f"{encoded.kind}: {encoded.reason}"
        return Preview(row=number, format=format_, text=encoded.text, dropped=dropped)
    return Preview(
        row=number,
        format=format_,
        unrendered=encoded.unrendered,
        text=encoded.text,
        input_ids=tuple(encoded.input_ids),
        labels=tuple(encoded.labels),
        supervised_text=encoder.codec.spell(encoded.input_ids[encoded.start :]),
    )


def _source(inputs: PrepareInputs, name: str | None) -> DataSource:
    names = [source.name for source in inputs.sources]
    if name is None:
        return inputs.sources[0]
    if not name or name not in names:
        hint = f"its sources are {', '.join(names)}" if names[0] else "only a mixture has sources"
        raise DataError(f"the spec has no source `{name}`", place="$.data.sources", hint=hint)
    return inputs.sources[names.index(name)]


def _answer(asked: argparse.Namespace) -> int:
    root = RootPaths(asked.root.absolute())
    answers_to = os.dup(1)
    os.dup2(2, 1)  # a model's own code may print; stdout must contain only the answer
    try:
        if asked.preview is not None:
            answer = preview(parsing.load(asked.preview), root, asked.row, asked.source)
        else:
            spec = parsing.load(asked.check)
            report = prepare(spec, root)
            prepared = PreparedPaths(root.root / report.dir)
            passes, longest = count_micro_batches(spec, prepared.train)
            answer = RowReport.of(report, passes, longest)
    except JobspecError as error:
        answer = ErrorAnswer(error=ErrorDetails.of(error))
    with os.fdopen(answers_to, "wb") as out:
        out.write(records.encode_line(answer))
    return exit_codes.REFUSED if isinstance(answer, ErrorAnswer) else exit_codes.DONE


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
    main()
