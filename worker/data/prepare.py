"""The prepare phase: a spec's rows become verified token ids, once for all jobs that share them.

`python -m worker.data.prepare ATTEMPT_DIR` is the phase. On a login node, for `validate`,
`enqueue` and
`preview`: `python -m worker.data.prepare --check SPEC.json --root ROOT` does the same and
prints its
report as JSON, `--preview SPEC.json --row N --root ROOT` prints what one row trains. Both exit 3
with `{"error": {...}}` on stdout where something is refused.

Nothing here imports torch, Transformers or datasets: on rows that are prepared already the phase
hashes the files its key is made of, and is done.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from jobspec.errors import DataError, JobspecError, RootError, TemplateError
from jobspec.records import base as records
from jobspec.records import exit_codes
from jobspec.records.answers import ErrorAnswer, ErrorDetails, Preview
from jobspec.records.reports import DatasetReport, Passes, PrepareReport, RowReport
from jobspec.spec import parsing
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs, tempfiles
from jobspec.storage.layout import RootPaths
from worker.data import batching, contamination, dataset_cache, parallel_map, split
from worker.data.cache_key import Inputs
from worker.data.encode import TEMPLATE_KINDS, Encoded, encode_row
from worker.data.jsonl import Scan, read_row
from worker.data.report import Tally
from worker.data.tokenize import Work, tokenize
from worker.phase import Phase, run

Progress = Callable[[float, float, str], None]

_HINTS = {
    "over_long": "raise train.max_length, or leave long rows out: rows are never cut",
    "no_thinking": "begin each final turn with its thinking",
    "unclosed_thinking": "leave unfinished answers out",
    "lost_in_rendering": "use the roles and fields that the template renders",
    "no_end_token": "name the template's end of turn in generation_config.json, eos_token_id",
}


def main() -> None:
    if not {"--check", "--preview"}.intersection(sys.argv[1:]):
        run("prepare", body)
    parser = argparse.ArgumentParser(prog="python -m worker.data.prepare")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--check", type=Path, metavar="SPEC")
    asked.add_argument("--preview", type=Path, metavar="SPEC")
    parser.add_argument("--row", type=int, default=1, help="counted from 1")
    parser.add_argument("--root", type=Path, required=True)
    sys.exit(_answer(parser.parse_args()))


def body(phase: Phase) -> int:
    """The phase: prepare, then publish the report."""
    phase.finish(prepare(phase.spec, phase.root, phase.progress))
    return 0


def prepare(
    spec: JobSpec, root: RootPaths, progress: Progress = lambda done, total, unit: None
) -> PrepareReport:
    """A spec's rows on the shelf, and the report of them.

    Safe to run many times at once: the rows appear whole, those of the first to finish.

    Raises:
        DataError, ModelError, TemplateError, BenchmarkError: what is wrong with the inputs.
        DiskFull, RootError: the root takes nothing; nothing half-written stays.
    """
    started = time.monotonic()
    try:
        inputs = Inputs.of(spec, root)
        # Both use the pool, which forks; writing rows starts threads, so it comes second.
        overlaps = contamination.report(spec.eval, inputs.data_file, inputs.data_sha256, root)
        directory = root.prepared / inputs.key
        report = dataset_cache.find(directory)
        cached = report is not None
        if report is None:
            report = _make(inputs, directory, progress)
        _judge(report, inputs)
    except PermissionError as error:
        hint = "its cache must be writable"
        raise RootError(f"not writable: {error}", file=root.root, hint=hint) from error
    return PrepareReport(
        **msgspec.structs.asdict(report),
        key=inputs.key,
        dir=str(directory.relative_to(root.root)),
        cached=cached,
        overlap=overlaps,
        seconds=round(time.monotonic() - started, 3),
    )


def preview(spec: JobSpec, root: RootPaths, number: int) -> Preview:
    """What one row (its line, counted from 1) trains, token by token."""
    inputs = Inputs.of(spec, root)
    row = read_row(inputs.data_file, number)
    chat = inputs.chat()
    made = encode_row(row, chat)
    if not isinstance(made, Encoded):
        return Preview(row=number, text=made.text, dropped=f"{made.kind}: {made.reason}")
    return Preview(
        row=number,
        text=made.text,
        input_ids=tuple(made.input_ids),
        labels=tuple(made.labels),
        supervised_text=chat.codec.spell(made.input_ids[made.start :]),
    )


def _answer(asked: argparse.Namespace) -> int:
    root = RootPaths(asked.root.absolute())
    answers_to = os.dup(1)
    os.dup2(2, 1)  # whatever a model's own code prints is talk: stdout is the answer's
    try:
        if asked.preview is not None:
            answer = preview(parsing.load(asked.preview), root, asked.row)
        else:
            spec = parsing.load(asked.check)
            report = prepare(spec, root)
            passes, longest = _passes(spec, root.root / report.dir / "train")
            answer = RowReport.of(report, passes, longest)
    except JobspecError as error:
        answer = ErrorAnswer(error=ErrorDetails.of(error))
    with os.fdopen(answers_to, "wb") as out:
        out.write(records.encode_line(answer))
    return exit_codes.REFUSED if isinstance(answer, ErrorAnswer) else exit_codes.DONE


def _passes(spec: JobSpec, directory: Path) -> tuple[Passes, int]:
    """How many micro-batches an epoch has on one device, packed and not, and the longest one."""
    train, (lengths, _) = spec.train, dataset_cache.counts(directory)
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


def _make(inputs: Inputs, directory: Path, progress: Progress) -> DatasetReport:
    """Tokenize the rows and shelve them; returns their report."""
    fs.make_dir(directory.parent)
    fs.sweep(directory.parent)
    staged = tempfiles.beside(directory)
    try:
        with fs.disk_full(directory):
            staged.mkdir()
            report = _stage(inputs, staged, progress)
            dataset_cache.shelve(staged, directory, report)
    except BaseException:
        fs.remove_tree(staged)
        raise
    return report


def _stage(inputs: Inputs, staged: Path, progress: Progress) -> DatasetReport:
    ratio, limit = inputs.data.eval_split_ratio, inputs.data.max_train_samples
    seed = inputs.train.seed
    scan = Scan.of(inputs.data_file)
    wanted = None if limit is None else split.candidates(scan.lines(), limit, ratio, seed)
    work = Work(inputs.data_file, staged, inputs.chat(), wanted)
    tally = Tally()
    for done in parallel_map.in_order(partial(tokenize, work), scan.chunks):
        tally.add(done)
        progress(tally.rows_in, scan.rows, "rows")
    scan.check_unchanged()
    dealt = split.deal([(row.number, row.prompt) for row in tally.kept], ratio, seed, limit)
    dataset_cache.write_splits(staged, work.pieces(len(scan.chunks)), dealt, inputs.key)
    text = inputs.template.text
    return msgspec.structs.replace(
        tally.report(dealt, inputs.tags.close),
        data_sha256=inputs.data_sha256,
        tokenizer_sha256=inputs.tokens.sha256,
        template_sha256=hashlib.sha256(text.encode()).hexdigest(),
        inference_chat_template=text,
        think_end_in_template=inputs.tags.close in text,
        template_writes_date=inputs.template.writes_date,
        eos_token_ids=tuple(sorted(set(inputs.tokens.answer.eos_tokens.values()))),
        file_sizes=dataset_cache.sizes(staged),
    )


def _judge(report: DatasetReport, inputs: Inputs) -> None:
    """Stop where too many rows were dropped, or none is left. Raises DataError, TemplateError."""
    dropped, looked_at = sum(report.dropped.values()), report.rows_selected
    allowed = inputs.data.max_dropped_frac
    if report.rows_train and dropped <= allowed * looked_at:
        return
    first = min(report.first_dropped, key=lambda row: row.row)
    counts = ", ".join(f"{kind}: {count}" for kind, count in report.dropped.items())
    message = f"{dropped} of {looked_at} rows can't be trained on ({counts}); {first.reason}"
    if first.text:
        message += f"\n--- row {first.row} as rendered ---\n{first.text}"
    hint = _HINTS.get(first.kind, "set model.chat_template to one that renders the rows")
    if dropped < looked_at:
        hint += f", or allow more than data.max_dropped_frac {allowed:g}"
    hint += "; `jobspec preview SPEC --row N` shows a row"
    is_templates = dropped == looked_at and first.kind in TEMPLATE_KINDS
    kind = TemplateError if is_templates else DataError
    raise kind(message, file=inputs.data_file, place=f"row {first.row}", hint=hint)


if __name__ == "__main__":
    main()
