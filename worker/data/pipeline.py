"""Turns a spec's data files into prepared rows: token ids and labels, with a report.

It does not import torch, Transformers or datasets. If the rows are in the cache already, it only
hashes the inputs and returns the cached report.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from jobspec.errors import DataError, ModelError, RootError, TemplateError
from jobspec.records.base import UNSET
from jobspec.records.mixture import SourceReport
from jobspec.records.reports import (
    DatasetReport,
    DroppedExample,
    PrepareReport,
    UnrenderedField,
)
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs, tempfiles
from jobspec.storage.layout import PreparedPaths, RootPaths
from worker.contamination import overlap
from worker.data import dataset_cache, split
from worker.data.arrow_files import write_splits
from worker.data.cache_key import PrepareInputs
from worker.data.encode import TEMPLATE_KINDS, DropKind
from worker.data.report import RowCounts
from worker.data.split import Split
from worker.data.tokenize import KeptRow, TokenizeTask, tokenize_chunk
from worker.rows import parallel_map
from worker.rows.data_sources import DataSources
from worker.rows.row_source import rows_named_by_file

Progress = Callable[[float, float, str], None]

_HINTS = {
    "malformed": "a row is a JSON object with `messages`, and ends with the turn to be learned",
    "not_trained": "leave such rows out of the file",
    "over_long": "raise train.max_length, or remove long rows; rows are never truncated",
    "no_thinking": "begin each final turn with its thinking",
    "unclosed_thinking": "remove unfinished answers",
    "lost_in_rendering": "use the roles and fields that the template renders",
    "no_end_token": "name the template's end of turn in generation_config.json, eos_token_id",
}


def prepare(
    spec: JobSpec, root: RootPaths, progress: Progress = lambda done, total, unit: None
) -> PrepareReport:
    """Prepare a spec's rows unless they are in the cache, and return their report.

    Raises:
        DataError, ModelError, TemplateError, BenchmarkError: the inputs are wrong, or the rows must
            not be trained on (`refuse`).
        DiskFull, RootError: the shared directory is full or not writable; no partial rows stay.
    """
    report, inputs = find_or_prepare(spec, root, progress)
    refuse(report, inputs)
    return report


def find_or_prepare(
    spec: JobSpec, root: RootPaths, progress: Progress = lambda done, total, unit: None
) -> tuple[PrepareReport, PrepareInputs]:
    """The report of a spec's rows, prepared or from the cache, even if they must not be trained on.

    Several processes may do so at once. The rows of the first one to finish are published
    atomically; the others are dropped. Raises what `prepare` raises, except for `refuse`.
    """
    started = time.monotonic()
    try:
        inputs = PrepareInputs.of(spec, root)
        with DataSources(inputs.sources, root.prepared) as sources:
            # The contamination check forks processes. Writing rows starts threads, after which a
            # process must not fork, so the check comes first.
            overlaps = overlap.report(spec.eval, sources, inputs.data_sha256, root)
            prepared = root.prepared_rows(inputs.key)
            report = dataset_cache.find(prepared)
            cached = report is not None
            if report is None:
                report = _prepare_rows(inputs, sources, prepared, progress)
    except PermissionError as error:
        hint = "prepare needs to write to its cache"
        raise RootError(f"not writable: {error}", file=root.root, hint=hint) from error
    made = PrepareReport(
        **msgspec.structs.asdict(report),
        key=inputs.key,
        dir=str(prepared.dir.relative_to(root.root)),
        cached=cached,
        overlap=overlaps,
        seconds=round(time.monotonic() - started, 3),
    )
    return made, inputs


def refuse(report: PrepareReport, inputs: PrepareInputs) -> None:
    """Raise DataError, ModelError or TemplateError if the rows must not be trained on."""
    with contextlib.ExitStack() as stack:
        for source in inputs.sources:
            stack.enter_context(rows_named_by_file(source.file))
        overlap.refuse(report.overlap, inputs.data)
        _refuse_unknown_tokens(report, inputs)
        _refuse_bad_rows(report, inputs)
        _refuse_unrendered_text(report, inputs)


def _prepare_rows(
    inputs: PrepareInputs, sources: DataSources, prepared: PreparedPaths, progress: Progress
) -> DatasetReport:
    """Tokenize the rows, publish them in the cache, and return their report."""
    fs.make_dir(prepared.dir.parent)
    fs.sweep(prepared.dir.parent)
    staged = PreparedPaths(tempfiles.beside(prepared.dir))
    try:
        with fs.disk_full(prepared.dir):
            staged.dir.mkdir()
            report = _write_rows(inputs, sources, staged, progress)
            dataset_cache.publish(staged, prepared, report)
    except BaseException:
        fs.remove_tree(staged.dir)
        raise
    return report


def _write_rows(
    inputs: PrepareInputs, sources: DataSources, staged: PreparedPaths, progress: Progress
) -> DatasetReport:
    scan = sources.scan
    wanted = _select_rows(inputs, sources)
    task = TokenizeTask(staged, sources.parsers, inputs.encoder(), wanted)
    counts = RowCounts()
    for result in parallel_map.map_in_order(partial(tokenize_chunk, task), scan.chunks):
        counts.add(result)
        progress(counts.rows_in.total(), scan.rows, "rows")
    sources.check_unchanged()
    splits = _split_rows(inputs, sources, counts.kept)
    write_splits(staged, scan.chunks, splits, inputs.key, mixed=inputs.mixture is not None)
    text = inputs.template.text
    return msgspec.structs.replace(
        counts.report(splits, inputs.tags.close, sources),
        data_sha256=inputs.data_sha256,
        tokenizer_sha256=inputs.tokenizer.sha256,
        template_sha256=hashlib.sha256(text.encode()).hexdigest(),
        inference_chat_template=text,
        think_end_in_template=inputs.tags.close in text,
        template_writes_date=inputs.template.writes_date,
        eos_token_ids=tuple(sorted(set(inputs.tokenizer.facts.eos_tokens.values()))),
        file_sizes=dataset_cache.file_sizes(staged),
    )


def _select_rows(inputs: PrepareInputs, sources: DataSources) -> set[int] | None:
    """The positions of the rows to use, as far as that does not depend on them; None for all."""
    data, seed = inputs.data, inputs.train.seed
    if inputs.mixture is None:
        limit, ratio = data.max_train_samples, data.eval_split_ratio
        lines = sources.scan.lines()
        return None if limit is None else split.sample_rows(lines, limit, ratio, seed)
    rows = [scan.rows for scan in sources.scans]
    counts = inputs.mixture.count_selected(rows)
    if counts == rows:
        return None
    wanted: set[int] = set()
    for start, scan, count in zip(sources.starts, sources.scans, counts, strict=True):
        lines = ((start + number, line) for number, line in scan.lines())
        wanted |= split.choose_rows(lines, count, seed)
    return wanted


def _split_rows(inputs: PrepareInputs, sources: DataSources, kept: list[KeptRow]) -> Split:
    """Which rows are held out, and how often the others are trained on."""
    data, seed, mixture = inputs.data, inputs.train.seed, inputs.mixture
    limit = data.max_train_samples if mixture is None else None
    prompts = [(row.position, row.prompt) for row in kept]
    splits = split.split_rows(prompts, data.eval_split_ratio, seed, limit)
    if mixture is None:
        return splits
    train: list[list[int]] = [[] for _ in sources.sources]
    for position in splits.train:
        train[sources.index_of(position)].append(position)
    return Split(mixture.repeat_rows(train), splits.held_out)


def _refuse_unknown_tokens(report: DatasetReport, inputs: PrepareInputs) -> None:
    """Raise ModelError if a row has a token that the model does not embed.

    One such row is enough: the tokenizer does not belong to the model.
    """
    first = next((row for row in report.first_dropped if row.kind == DropKind.NOT_EMBEDDED), None)
    if first is None:
        return
    rows = report.dropped[DropKind.NOT_EMBEDDED]
    others = f"; {rows} rows have such tokens" if rows > 1 else ""
    raise ModelError(
        f"{first.reason}{others}",
        file=inputs.file_of(first.source),
        place=f"row {first.row}",
        hint="use the tokenizer that belongs to the weights in "
        f"{inputs.tokenizer.model_dir}, or resize their embedding",
    )


def _refuse_bad_rows(report: DatasetReport, inputs: PrepareInputs) -> None:
    """Raise DataError or TemplateError if a file has too many dropped rows or none are left."""
    for source, part in zip(inputs.sources, report.sources or (report,), strict=True):
        firsts = [row for row in report.first_dropped if row.source in (UNSET, source.name)]
        _refuse_bad_source(part, firsts, source.file, inputs)


def _refuse_bad_source(
    report: DatasetReport | SourceReport,
    firsts: list[DroppedExample],
    file: Path,
    inputs: PrepareInputs,
) -> None:
    dropped, selected = sum(report.dropped.values()), report.rows_selected
    allowed = inputs.data.max_dropped_frac
    if report.train.rows and dropped <= allowed * selected:
        return
    if not firsts:
        message = f"none of its {selected} rows is left to train on: the others are held out"
        raise DataError(message, file=file, place="$.data", hint="lower data.eval_split_ratio")
    first = min(firsts, key=lambda row: row.row)
    counts = ", ".join(f"{kind}: {count}" for kind, count in report.dropped.items())
    message = f"{dropped} of {selected} rows can't be used for training ({counts}); {first.reason}"
    if first.text:
        message += f"\n--- row {first.row} as rendered ---\n{first.text}"
    hint = _HINTS.get(first.kind, "set model.chat_template to one that renders the rows")
    if dropped < selected:
        hint += f", or allow more than data.max_dropped_frac {allowed:g}"
    shown = f"--source {first.source} --row {first.row}" if first.source else f"--row {first.row}"
    hint += f"; `jobspec preview SPEC {shown}` shows it"
    is_templates = dropped == selected and first.kind in TEMPLATE_KINDS
    kind = TemplateError if is_templates else DataError
    raise kind(message, file=file, place=f"row {first.row}", hint=hint)


def _refuse_unrendered_text(report: DatasetReport, inputs: PrepareInputs) -> None:
    """Raise DataError if rows carry text that training would silently leave out."""
    fields = report.unrendered
    if not fields:
        return
    # In a mixture, the first row of the first source that has any.
    order = [source.name or UNSET for source in inputs.sources]
    first = min(fields, key=lambda field: (order.index(field.source), field.first_row))
    counts = ", ".join(_count_rows(field) for field in fields)
    names = sorted({*inputs.data.ignore_fields, *(field.name for field in fields)})
    raise DataError(
        f"the chat template does not render the text of {counts}",
        file=inputs.file_of(first.source),
        place=f"row {first.first_row}",
        hint="move it into `messages`, or leave it out on purpose: "
        f"--set data.ignore_fields='{json.dumps(names, ensure_ascii=False)}'",
    )


def _count_rows(field: UnrenderedField) -> str:
    return f"`{field.name}` in {field.rows} row{'s' * (field.rows != 1)}"
