"""Turns a spec's data file into prepared rows: token ids and labels, with a report.

It does not import torch, Transformers or datasets. If the rows are in the cache already, it only
hashes the inputs and returns the cached report.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from functools import partial

import msgspec

from jobspec.errors import DataError, ModelError, RootError, TemplateError
from jobspec.records.reports import DatasetReport, PrepareReport, UnrenderedField
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs, tempfiles
from jobspec.storage.layout import PreparedPaths, RootPaths
from worker.data import contamination, dataset_cache, parallel_map, split
from worker.data.arrow_files import write_splits
from worker.data.cache_key import PrepareInputs
from worker.data.encode import TEMPLATE_KINDS, DropKind
from worker.data.report import RowCounts
from worker.data.tokenize import TokenizeTask, tokenize_chunk
from worker.rows.jsonl import Scan
from worker.rows.row_source import RowSource, rows_named_by_file

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

    Several processes may do so at once. The rows of the first one to finish are published
    atomically; the others are dropped.

    Raises:
        DataError, ModelError, TemplateError, BenchmarkError: the inputs are wrong.
        DiskFull, RootError: the shared directory is full or not writable; no partial rows stay.
    """
    started = time.monotonic()
    try:
        inputs = PrepareInputs.of(spec, root)
        data = inputs.data_file
        with rows_named_by_file(data), RowSource(data, root.prepared) as source:
            # The contamination check forks processes. Writing rows starts threads, after which a
            # process must not fork, so the check comes first.
            overlaps = contamination.report(
                spec.eval, source, inputs.parser(), inputs.data_sha256, root
            )
            prepared = root.prepared_rows(inputs.key)
            report = dataset_cache.find(prepared)
            cached = report is not None
            if report is None:
                report = _prepare_rows(inputs, source, prepared, progress)
            _refuse_unknown_tokens(report, inputs)
            _refuse_bad_rows(report, inputs)
            _refuse_unrendered_text(report, inputs)
    except PermissionError as error:
        hint = "prepare needs to write to its cache"
        raise RootError(f"not writable: {error}", file=root.root, hint=hint) from error
    return PrepareReport(
        **msgspec.structs.asdict(report),
        key=inputs.key,
        dir=str(prepared.dir.relative_to(root.root)),
        cached=cached,
        overlap=overlaps,
        seconds=round(time.monotonic() - started, 3),
    )


def _prepare_rows(
    inputs: PrepareInputs, source: RowSource, prepared: PreparedPaths, progress: Progress
) -> DatasetReport:
    """Tokenize the rows, publish them in the cache, and return their report."""
    fs.make_dir(prepared.dir.parent)
    fs.sweep(prepared.dir.parent)
    staged = PreparedPaths(tempfiles.beside(prepared.dir))
    try:
        with fs.disk_full(prepared.dir):
            staged.dir.mkdir()
            report = _write_rows(inputs, source, staged, progress)
            dataset_cache.publish(staged, prepared, report)
    except BaseException:
        fs.remove_tree(staged.dir)
        raise
    return report


def _write_rows(
    inputs: PrepareInputs, source: RowSource, staged: PreparedPaths, progress: Progress
) -> DatasetReport:
    ratio, limit = inputs.data.eval_split_ratio, inputs.data.max_train_samples
    seed = inputs.train.seed
    scan = Scan.of(source.jsonl, source.data)
    wanted = None if limit is None else split.sample_rows(scan.lines(), limit, ratio, seed)
    task = TokenizeTask(source.jsonl, staged, inputs.parser(), inputs.encoder(), wanted)
    counts = RowCounts()
    for result in parallel_map.map_in_order(partial(tokenize_chunk, task), scan.chunks):
        counts.add(result)
        progress(counts.rows_in, scan.rows, "rows")
    source.check_unchanged()
    prompts = [(row.number, row.prompt) for row in counts.kept]
    splits = split.split_rows(prompts, ratio, seed, limit)
    write_splits(staged, len(scan.chunks), splits, inputs.key)
    text = inputs.template.text
    return msgspec.structs.replace(
        counts.report(splits, inputs.tags.close),
        data_sha256=inputs.data_sha256,
        tokenizer_sha256=inputs.tokenizer.sha256,
        template_sha256=hashlib.sha256(text.encode()).hexdigest(),
        inference_chat_template=text,
        think_end_in_template=inputs.tags.close in text,
        template_writes_date=inputs.template.writes_date,
        eos_token_ids=tuple(sorted(set(inputs.tokenizer.facts.eos_tokens.values()))),
        file_sizes=dataset_cache.file_sizes(staged),
    )


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
        file=inputs.data_file,
        place=f"row {first.row}",
        hint="use the tokenizer that belongs to the weights in "
        f"{inputs.tokenizer.model_dir}, or resize their embedding",
    )


def _refuse_bad_rows(report: DatasetReport, inputs: PrepareInputs) -> None:
    """Raise DataError or TemplateError if too many rows were dropped or none are left."""
    dropped, selected = sum(report.dropped.values()), report.rows_selected
    allowed = inputs.data.max_dropped_frac
    if report.rows_train and dropped <= allowed * selected:
        return
    first = min(report.first_dropped, key=lambda row: row.row)
    counts = ", ".join(f"{kind}: {count}" for kind, count in report.dropped.items())
    message = f"{dropped} of {selected} rows can't be used for training ({counts}); {first.reason}"
    if first.text:
        message += f"\n--- row {first.row} as rendered ---\n{first.text}"
    hint = _HINTS.get(first.kind, "set model.chat_template to one that renders the rows")
    if dropped < selected:
        hint += f", or allow more than data.max_dropped_frac {allowed:g}"
    hint += f"; `jobspec preview SPEC --row {first.row}` shows it"
    is_templates = dropped == selected and first.kind in TEMPLATE_KINDS
    kind = TemplateError if is_templates else DataError
    raise kind(message, file=inputs.data_file, place=f"row {first.row}", hint=hint)


def _refuse_unrendered_text(report: DatasetReport, inputs: PrepareInputs) -> None:
    """Raise DataError if rows carry text that training would silently leave out."""
    fields = report.unrendered
    if not fields:
        return
    first = min(field.first_row for field in fields)
    counts = ", ".join(_count_rows(field) for field in fields)
    names = sorted({*inputs.data.ignore_fields, *(field.name for field in fields)})
    raise DataError(
        f"the chat template does not render the text of {counts}",
        file=inputs.data_file,
        place=f"row {first}",
        hint="move it into `messages`, or leave it out on purpose: "
        f"--set data.ignore_fields='{json.dumps(names, ensure_ascii=False)}'",
    )


def _count_rows(field: UnrenderedField) -> str:
    return f"`{field.name}` in {field.rows} row{'s' * (field.rows != 1)}"
