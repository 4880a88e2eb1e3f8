"""The prepare phase: a spec's rows become verified token ids, once for all jobs that share them.

`python -m worker.prepare ATTEMPT_DIR` is the phase. On a login node, for `validate`, `enqueue` and
`preview`: `python -m worker.prepare --check SPEC.json --root ROOT` does the same and prints its
report as JSON, `--preview SPEC.json --row N --root ROOT` prints what one row trains. Both exit 3
with `{"error": {...}}` on stdout where something is refused.

Nothing here imports torch, Transformers or datasets: on rows that are prepared already the phase
hashes the files its key is made of, and is done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobspec import fs
from jobspec import spec as specs
from jobspec.errors import DataError, JobspecError, ModelError, TemplateError
from jobspec.paths import RootPaths
from jobspec.spec import DataSpec, JobSpec, TrainSpec
from worker import models, shelf, split, tokens
from worker.phase import EXIT_REFUSED, Phase, run
from worker.reading import Scan, read_row
from worker.rows import TEMPLATE_KINDS, Chat, Encoded, encode_row
from worker.tally import Tally
from worker.templates import ChatTemplate, ThinkTags
from worker.tokenizing import Work, run_pool

# Part of every key: raise it when the same inputs would give other rows or another report.
VERSION = 1

Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class Inputs:
    """Everything that decides what is prepared, read and checked; `key` names it."""

    spec: JobSpec
    data: DataSpec
    train: TrainSpec
    data_file: Path
    data_sha256: str
    tokens: tokens.Tokens
    template: ChatTemplate
    tags: ThinkTags
    key: str

    def chat(self) -> Chat:
        """What turns rows into tokens; loads the tokenizer."""
        return Chat(
            template=self.template,
            codec=tokens.Codec(self.tokens.answer),
            tags=self.tags,
            opening=self.template.opening(self.tags),
            max_length=self.train.max_length,
            require_think=self.data.require_think,
        )


def main() -> None:
    if not {"--check", "--preview"}.intersection(sys.argv[1:]):
        run("prepare", body)
    parser = argparse.ArgumentParser(prog="python -m worker.prepare")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--check", type=Path, metavar="SPEC")
    asked.add_argument("--preview", type=Path, metavar="SPEC")
    parser.add_argument("--row", type=int, default=1, help="counted from 1")
    parser.add_argument("--root", type=Path, required=True)
    sys.exit(_answer(parser.parse_args()))


def body(phase: Phase) -> int:
    """The phase: prepare, then publish the report."""
    report = prepare(phase.spec, phase.root, phase.progress)
    phase.finish(report)
    return 0


def prepare(
    spec: JobSpec, root: RootPaths, progress: Progress = lambda done, total, unit: None
) -> dict[str, Any]:
    """A spec's rows on the shelf, and the report of them.

    Safe to run many times at once: the rows appear whole, the first to finish placing them.

    Raises:
        DataError, ModelError, TemplateError: what is wrong with the inputs.
        DiskFull: nothing half-written stays.
    """
    started = time.monotonic()
    inputs = read_inputs(spec, root)
    directory = root.prepared / inputs.key
    report = shelf.find(directory)
    cached = report is not None
    if report is None:
        report = _make(inputs, directory, progress)
    _judge(report, inputs)
    report |= {
        "key": inputs.key,
        "dir": str(directory.relative_to(root.root)),
        "cached": cached,
        "seconds": round(time.monotonic() - started, 3),
    }
    return report


def read_inputs(spec: JobSpec, root: RootPaths) -> Inputs:
    """Find, read and check everything but the rows. Raises DataError, ModelError, TemplateError."""
    data, train = spec.data, spec.train
    if data is None or train is None:
        raise DataError("the spec trains nothing", place="$.data", hint="it needs no preparing")
    data_file = Path(data.path).expanduser().absolute()
    data_sha256 = _hash(data_file, data.sha256)
    found = tokens.load(spec.model, root)
    _check_length(train, found.model_dir)
    template = _template(spec, found)
    tags = ThinkTags.closed_by(spec.eval.think_end_token if spec.eval else None)
    described = {
        "version": VERSION,
        "data": data_sha256,
        "tokenizer": found.sha256,
        "template": template.sha256,
        "tags": [tags.open, tags.close],
        "max_length": train.max_length,
        "eval_split_ratio": data.eval_split_ratio,
        "max_train_samples": data.max_train_samples,
        "require_think": data.require_think,
        "seed": train.seed,
    }
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:40]
    return Inputs(spec, data, train, data_file, data_sha256, found, template, tags, key)


def preview(spec: JobSpec, root: RootPaths, number: int) -> dict[str, Any]:
    """What one row (its line, counted from 1) trains, token by token."""
    inputs = read_inputs(spec, root)
    row = read_row(inputs.data_file, number)
    chat = inputs.chat()
    made = encode_row(row, chat)
    shown: dict[str, Any] = {"schema": 1, "row": number, "text": made.text}
    if isinstance(made, Encoded):
        supervised = chat.codec.spell(made.input_ids[made.start :])
        ids = {"input_ids": made.input_ids, "labels": made.labels}
        return shown | ids | {"supervised_text": supervised, "dropped": None}
    dropped = f"{made.kind}: {made.reason}"
    return shown | {"input_ids": [], "labels": [], "supervised_text": "", "dropped": dropped}


def _answer(asked: argparse.Namespace) -> int:
    root = RootPaths(asked.root.absolute())
    try:
        if asked.preview is not None:
            answer = preview(specs.load(asked.preview), root, asked.row)
        else:
            answer = {"schema": 1, **prepare(specs.load(asked.check), root)}
    except JobspecError as error:
        fields = ("message", "hint", "file", "place")
        answer = {"error": {field: getattr(error, field) for field in fields}}
    sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
    return EXIT_REFUSED if "error" in answer else 0


def _make(inputs: Inputs, directory: Path, progress: Progress) -> dict[str, Any]:
    """Tokenize the rows and shelve them; returns their report."""
    fs.make_dir(directory.parent)
    staged = fs.temp_beside(directory)
    try:
        with fs.disk_full(directory):
            staged.mkdir()
            report = _stage(inputs, staged, progress)
            shelf.shelve(staged, directory, report)
    except BaseException:
        fs.remove_tree(staged)
        raise
    return report


def _stage(inputs: Inputs, staged: Path, progress: Progress) -> dict[str, Any]:
    ratio, seed = inputs.data.eval_split_ratio, inputs.train.seed
    scan = Scan.of(inputs.data_file)
    limit = inputs.data.max_train_samples
    wanted = split.candidates(scan.lines(), limit, ratio, seed) if limit is not None else None
    work = Work(inputs.data_file, staged, inputs.chat(), wanted)
    tally = Tally()
    for done in run_pool(work, scan.chunks):
        tally.add(done)
        progress(tally.rows_in, scan.rows, "rows")
    scan.check_unchanged()
    held_out = split.held_out((row.prompt for row in tally.kept), ratio, seed)
    eval_rows = {row.number for row in tally.kept if row.prompt in held_out}
    shelf.write_splits(staged, work.pieces(len(scan.chunks)), eval_rows, inputs.key)
    return {
        **tally.report(eval_rows, inputs.tags.close),
        "data_sha256": inputs.data_sha256,
        "tokenizer_sha256": inputs.tokens.sha256,
        "template_sha256": inputs.template.sha256,
        "inference_chat_template": inputs.template.text,
        "template_opens": work.chat.opening,
        "think_end_in_template": inputs.tags.close in inputs.template.text,
        "eos_token_ids": sorted(set(inputs.tokens.answer.eos_tokens.values())),
        "file_sizes": shelf.sizes(staged),
    }


def _judge(report: dict[str, Any], inputs: Inputs) -> None:
    """Stop where too many rows were dropped, or none is left. Raises DataError, TemplateError."""
    dropped, looked_at = sum(report["dropped"].values()), report["rows_selected"]
    allowed = inputs.data.max_dropped_frac
    if report["rows_train"] and dropped <= allowed * looked_at:
        return
    first = min(report["first_dropped"], key=lambda row: row["row"], default=None)
    if first is None:
        raise DataError("no row to train on", file=inputs.data_file, place="$.data.path")
    counts = ", ".join(f"{kind}: {count}" for kind, count in report["dropped"].items())
    message = f"{dropped} of {looked_at} rows can't be trained on ({counts}); {first['reason']}"
    if first["text"]:
        message += f"\n--- row {first['row']} as rendered ---\n{first['text']}"
    is_templates = dropped == looked_at and first["kind"] in TEMPLATE_KINDS
    kind = TemplateError if is_templates else DataError
    raise kind(
        message,
        file=inputs.data_file,
        place=f"row {first['row']}",
        hint=_hint(first["kind"], allowed),
    )


def _hint(kind: str, allowed: float) -> str:
    hints: dict[str, str] = {
        "over_long": "raise train.max_length, or leave long rows out; they are never cut",
        "no_thinking": "begin the final turn with its thinking, or use a template that opens none",
        "no_end_token": "the end-of-turn token must be an eos_token_id of generation_config.json",
    }
    hint = hints.get(kind, "put the rows right, or set model.chat_template to one that keeps them")
    return f"{hint}; data.max_dropped_frac ({allowed:g}) says how many may be dropped"


def _hash(path: Path, expected: str | None) -> str:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        raise DataError(
            f"can't be read: {error.strerror}", file=path, place="$.data.path"
        ) from error
    if size == 0:
        raise DataError("is empty", file=path, place="$.data.path", hint="is it still written?")
    if expected is not None and found != expected:
        raise DataError(
            f"has changed: its SHA-256 is {found[:12]}…, the spec says {expected[:12]}…",
            file=path,
            place="$.data.sha256",
            hint="put the old data back, or enqueue a new spec: other data, other experiment",
        )
    return found


def _check_length(train: TrainSpec, model_dir: Path) -> None:
    limit = models.max_positions(model_dir)
    if limit is not None and train.max_length > limit:
        raise ModelError(
            f"max_length {train.max_length} is beyond the model's {limit} positions",
            file=model_dir / "config.json",
            place="$.train.max_length",
            hint=f"set it to {limit} or less",
        )


def _template(spec: JobSpec, found: tokens.Tokens) -> ChatTemplate:
    given = spec.model.chat_template
    sources: dict[str, str] = found.answer.chat_templates
    file = found.model_dir
    if given is not None:
        file = Path(given).expanduser().absolute()
        try:
            sources = {"default": file.read_text(encoding="utf-8")}
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise TemplateError(
                f"can't be read: {why}", file=file, place="$.model.chat_template"
            ) from error
    if "default" not in sources:
        raise TemplateError(
            "the model's tokenizer has no chat template",
            file=file,
            place="$.model.chat_template",
            hint="set model.chat_template to a Jinja file",
        )
    kwargs = spec.eval.chat_template_kwargs if spec.eval is not None else {}
    return ChatTemplate(sources, found.answer.special_tokens, kwargs=kwargs, file=file)


if __name__ == "__main__":
    main()
