"""`jobspec benchmarks`: list the benchmarks and the files with their questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from jobspec.benchmarks import question_file, registry
from jobspec.benchmarks.benchmark import Benchmark
from jobspec.cli.add_benchmark import add
from jobspec.cli.common import common, current_root, wants_json
from jobspec.cli.output import Cell, Column, Table, emit
from jobspec.errors import BenchmarkError
from jobspec.spec.schema import EvalSpec
from jobspec.storage.layout import RootPaths


class BenchmarkRow(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark in `benchmarks --json`. `file` is null without its questions."""

    name: str
    title: str
    aliases: tuple[str, ...]
    questions: int | None
    metric: str
    samples: int
    file: str | None
    downloadable: bool
    licence: str
    url: str


@click.group(invoke_without_command=True)
@click.option(
    "--benchmark-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also search this directory, as with `eval.benchmark_dir` in a spec.",
)
@common
@click.pass_context
def benchmarks(context: click.Context, benchmark_dir: Path | None) -> None:
    """List the benchmarks that jobspec implements itself, and whether their questions are here.

    \b
    jobspec benchmarks
    jobspec benchmarks --benchmark-dir ~/benchmarks
    jobspec benchmarks add capitals.jsonl

    METRIC and SAMPLES (answers per question) are the defaults of a spec. HERE is the file with the
    questions: in --benchmark-dir, $JOBSPEC_BENCHMARK_DIR or the root's cache, which `jobspec fetch`
    fills. A spec can also name any task of lm-eval: `lm_eval ls tasks` lists these.
    """
    if context.invoked_subcommand is not None:
        return None
    given = None if benchmark_dir is None else str(benchmark_dir)
    where = question_file.directories(given, RootPaths(current_root()).cache / "benchmarks")
    rows = [
        _row(each, where)
        for each in (*registry.all_benchmarks(), *question_file.brought_along(where))
    ]
    if wants_json():
        return emit({"benchmarks": rows})
    for line in _table(rows).lines():
        click.echo(line)
    return None


benchmarks.add_command(add)


def _row(benchmark: Benchmark, where: Sequence[Path]) -> BenchmarkRow:
    samples = benchmark.samples_per_question(EvalSpec().avg_k)
    file = question_file.find(benchmark, where)
    return BenchmarkRow(
        name=benchmark.name,
        title=benchmark.title,
        aliases=benchmark.aliases,
        questions=_count(benchmark, file),
        metric=benchmark.main_metric(samples),
        samples=samples,
        file=None if file is None else str(file.absolute()),
        downloadable=benchmark.dataset is not None,
        licence=benchmark.licence,
        url=benchmark.url,
    )


def _count(benchmark: Benchmark, file: Path | None) -> int | None:
    """The number of questions; null if the file is damaged, or neither states it."""
    if file is None:
        return benchmark.question_count
    try:
        return len(question_file.read(benchmark, file).questions)
    except BenchmarkError:
        return None  # `jobspec validate` names the row that is wrong


def _table(rows: Sequence[BenchmarkRow]) -> Table:
    table = Table(
        [
            Column("name"),
            Column("benchmark", 3),
            Column("questions", right=True),
            Column("metric"),
            Column("samples", right=True),
            Column("here", least=20, rank=5),
        ]
    )
    for row in rows:
        count = "damaged" if row.questions is None else f"{row.questions:,}"
        table.add(row.name, row.title, count, row.metric, str(row.samples), _here(row))
    return table


def _here(row: BenchmarkRow) -> Cell:
    if row.file is not None:
        return Cell(row.file, "green")
    if row.downloadable:
        return Cell("no; `jobspec fetch` downloads it", dim=True)
    return Cell(f"no; get it from {row.url}", dim=True)
