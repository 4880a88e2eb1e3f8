"""Counts, lengths, duplicates and benchmark questions of a spec's data, and single rows.

What needs no tokenizer is shown even where the model or the worker's packages are missing.
"""

from __future__ import annotations

import msgspec

from jobspec.errors import DataError, JobspecError
from jobspec.records.answers import Preview
from jobspec.records.overview import DataOverview
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths
from worker.answer import refusal
from worker.contamination import overlap
from worker.preview import duplicates, histogram
from worker.preview.duplicates import RowTexts
from worker.rows import row_source
from worker.rows.data_sources import DataSources, digest, sources_of


def overview(spec: JobSpec, root: RootPaths) -> tuple[DataOverview, Preview]:
    """An overview of the data, and its first row that is a conversation.

    Raises:
        JobspecError: the data can't be read.
    """
    data = spec.data
    if data is None:
        raise DataError("the spec trains nothing", place="$.data", hint="nothing to show")
    with DataSources(sources_of(data), root.prepared) as sources:
        texts = duplicates.read(sources)
        # Before numpy and pyarrow are imported, because these fork too.
        made = _with_tokens(spec, root, texts)
        if made.rows is None:
            found = overlap.report(spec.eval, sources, digest(data), root)
            refused = refusal(lambda: overlap.refuse(found, data))
            made = msgspec.structs.replace(made, overlap=found, refused=refused)
        source, number = sources.locate(texts.numbers[0] if texts.numbers else 1)
        starts = zip(sources.sources, sources.starts, strict=True)
        names = tuple((each.name, start) for each, start in starts if each.name)
    made = msgspec.structs.replace(made, duplicates=duplicates.find(texts), sources=names)
    if made.rows is not None and texts.numbers:
        return made, show_row(spec, root, number, source.name or None)
    return made, Preview(row=number, format=row_source.describe(source.file), text="")


def show_row(spec: JobSpec, root: RootPaths, number: int, source: str | None = None) -> Preview:
    """Which tokens of one row are trained. `number` is its line, counted from 1.

    Args:
        source: the name of its source in a mixture; by default the first one.

    Raises:
        JobspecError: there is no such source or row, it is no conversation, or the model is
            missing.
    """
    from worker.preview import tokens

    return tokens.show_row(spec, root, number, source)


def _with_tokens(spec: JobSpec, root: RootPaths, texts: RowTexts) -> DataOverview:
    made = DataOverview(conversations=len(texts.numbers), malformed=texts.malformed)
    try:
        from worker.preview import tokens

        return tokens.add_counts(made, spec, root)
    except ImportError as error:
        why = f"`{error.name}` is missing"
    except DataError:
        raise
    except JobspecError as error:
        why = str(error)
    lengths = histogram.count(texts.characters)
    return msgspec.structs.replace(made, not_tokenized=why, lengths=lengths)
