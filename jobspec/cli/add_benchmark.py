"""`jobspec benchmarks add`: check a file of questions, show how answers are read, install it."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from jobspec import worker_command
from jobspec.benchmarks import own, question_file
from jobspec.benchmarks.benchmark import Question
from jobspec.benchmarks.question_file import QuestionSet
from jobspec.cli.common import common, create_option, create_queue, wants_json
from jobspec.cli.output import Cell, Column, Table, cut, emit, plural, say
from jobspec.errors import BenchmarkError, JobspecError
from jobspec.records.answers import ReadExample, ReadExamples
from jobspec.storage import fs

_MODULE = "worker.evaluation.read_examples"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SHOWN = 72  # characters


@click.command(short_help="Check your own questions and install them as a benchmark.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", help="Name after `own_`.  [default: the file's name]")
@click.option(
    "--reader",
    type=click.Choice(own.READERS),
    help="What reads the answers, for rows without a `reader`.  [default: seen from the rows]",
)
@click.option("--pattern", help="Regular expression of `regex`; its group is the answer.")
@click.option("--prompt", help="Template of the question, with {question} and perhaps {choices}.")
@click.option(
    "--benchmark-dir",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Install it in this directory.  [default: the root's cache]",
)
@click.option("--replace", is_flag=True, help="Replace other questions of the same name.")
@create_option
@common
def add(
    file: Path,
    name: str | None,
    reader: str | None,
    pattern: str | None,
    prompt: str | None,
    benchmark_dir: Path | None,
    replace: bool,
) -> None:
    """Check a JSONL file of your own questions and install it as a benchmark.

    \b
    jobspec benchmarks add capitals.jsonl --reader exact
    jobspec benchmarks add puzzles.jsonl --reader regex --pattern 'Move: (\\w+)'

    A row has `question` and `answer`; for `choice` also `choices`, and for `code` also `tests`, and
    a solution as `answer`. The answer of each row must be read as right. Ten made-up responses show
    how answers are read.
    """
    named = _checked_name(name or file.stem.lower().removeprefix(own.PREFIX))
    defaults = own.Defaults(reader=reader, pattern=pattern, prompt=prompt)
    benchmark = own.benchmark(named, defaults)
    found = question_file.read(benchmark, file)
    target_dir = benchmark_dir or create_queue().paths.cache / "benchmarks"
    target = target_dir / benchmark.files[0]
    data = b"".join(map(_line, found.questions))
    _refuse_to_replace(target, data, replace)
    fs.make_dir(target_dir)
    examples = _read_examples(found, target_dir)
    fs.publish(target, data)
    _print(found, target, examples)


def _checked_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise BenchmarkError(
            f"`{name}` can't be the name of a benchmark",
            place="--name",
            hint="use small letters, digits, - and _; begin with a letter or digit",
        )
    return name


def _refuse_to_replace(target: Path, data: bytes, replace: bool) -> None:
    if replace or not target.is_file() or target.read_bytes() == data:
        return
    raise BenchmarkError(
        f"there is a benchmark `{target.stem}` with other questions",
        file=target,
        hint="choose another --name, or --replace it; scores of the two are not compared",
    )


def _line(question: Question) -> bytes:
    return msgspec.json.encode(own.to_row(question)) + b"\n"


def _read_examples(found: QuestionSet, directory: Path) -> tuple[ReadExample, ...]:
    """How answers are read, from the worker's code; nothing where that is not installed."""
    rows = dict(zip(found.rows, found.questions, strict=True))
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".", suffix=".jsonl") as file:
        # Each row where it is in the user's file, so that errors name it.
        for number in range(1, max(rows) + 1):
            file.write(_line(rows[number]) if number in rows else b"\n")
        file.flush()
        arguments = [file.name, found.name]
        try:
            what = "the answers can't be read"
            return worker_command.ask(ReadExamples, _MODULE, arguments, what=what).examples
        except worker_command.PackageMissing as error:
            say(f"{error.message}, so that no examples are shown")
            return ()
        except JobspecError as error:
            at = {"file": found.file} if error.place and error.place.startswith("row") else {}
            raise BenchmarkError(error.message, hint=error.hint, place=error.place, **at) from error


def _print(found: QuestionSet, target: Path, examples: Sequence[ReadExample]) -> None:
    readers = Counter(each.reading.reader for each in found.questions if each.reading)
    if wants_json():
        return emit(
            {
                "name": found.name,
                "file": str(target.absolute()),
                "questions": len(found.questions),
                "readers": dict(readers),
                "examples": examples,
            }
        )
    table = Table([Column("response", 1), Column("read as"), Column("rule"), Column("counts as")])
    for each in examples:
        answer = "nothing" if each.answer is None else cut(_one_line(each.answer), _SHOWN // 3)
        outcome = "right" if each.right else "wrong"
        unexpected = " (!)" if each.right != each.meant else ""
        table.add(
            cut(_one_line(each.response), _SHOWN),
            answer,
            each.rule or "",
            Cell(outcome + unexpected, "green" if each.right else "red"),
        )
    for line in table.lines() if examples else ():
        click.echo(line)
    used = ", ".join(f"`{reader}`" for reader in sorted(readers))
    click.echo(f"{found.name}: {plural(len(found.questions), 'question')} read by {used}")
    say(f"written to {target}; name it in `eval.benchmarks`")
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())
