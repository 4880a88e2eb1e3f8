"""What of a preview needs the model's tokenizer and template: token counts, and rows as trained."""

from __future__ import annotations

import msgspec

from jobspec.errors import DataError
from jobspec.records.answers import Preview
from jobspec.records.overview import DataOverview
from jobspec.records.reports import Passes, RowReport
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import PreparedPaths, RootPaths
from worker.answer import refusal
from worker.data import dataset_cache
from worker.data.cache_key import PrepareInputs
from worker.data.encode import EncodedRow, encode_row
from worker.data.pipeline import find_or_prepare, refuse
from worker.preview import histogram
from worker.rows import row_source
from worker.rows.data_sources import DataSource


def add_counts(made: DataOverview, spec: JobSpec, root: RootPaths) -> DataOverview:
    """An overview with what preparing the rows counted, and whether they will be refused."""
    report, inputs = find_or_prepare(spec, root)
    prepared = PreparedPaths(root.root / report.dir)
    counts = [dataset_cache.read_counts(split) for split in (prepared.train, prepared.eval)]
    return msgspec.structs.replace(
        made,
        rows=RowReport.of(report, Passes(), 0),
        max_length=inputs.train.max_length,
        unit="tokens",
        lengths=histogram.count([length for lengths, _ in counts for length in lengths]),
        trained=histogram.count([length for _, trained in counts for length in trained]),
        overlap=report.overlap,
        refused=refusal(lambda: refuse(report, inputs)),
    )


def show_row(spec: JobSpec, root: RootPaths, number: int, source: str | None = None) -> Preview:
    """One row as it is trained; see `overview.show_row`."""
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
