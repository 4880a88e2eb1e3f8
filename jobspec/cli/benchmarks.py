"""`jobspec benchmarks`: which benchmarks there are, and whether their questions are here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from jobspec.benchmarks import question_file, registry
from jobspec.benchmarks.benchmark import Benchmark
from jobspec.cli.common import common, current_root, wants_json
from jobspec.cli.output import Cell, Column, Table, emit
from jobspec.errors import BenchmarkError
from jobspec.spec.schema import EvalSpec
from jobspec.storage.layout import RootPaths


class BenchmarkRow(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark in `benchmarks --json`. `file` is null where its questions are not here."""

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


@click.command()
@click.option(
    "--benchmark-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also look for questions here, as `eval.benchmark_dir` of a spec does.",
)
@common
def benchmarks(benchmark_dir: Path | None) -> None:
    """List the benchmarks that jobspec asks and grades itself.

    \b
    jobspec benchmarks
    jobspec benchmarks --benchmark-dir ~/benchmarks

    METRIC and SAMPLES (answers drawn for each question) are those of a spec that does not change
    them. HERE is the file with the questions: in --benchmark-dir, $JOBSPEC_BENCHMARK_DIR or the
    root's cache, which `jobspec fetch` fills. Every task of lm-eval can be named as well:
    `lm_eval ls tasks` lists those.
    """
    given = None if benchmark_dir is None else str(benchmark_dir)
    where = question_file.directories(given, RootPaths(current_root()).cache / "benchmarks")
    rows = [_row(each, where) for each in (*registry.all_benchmarks(), *_own(where))]
    if wants_json():
        return emit({"benchmarks": rows})
    for line in _table(rows).lines():
        click.echo(line)
    return None


def _own(where: Sequence[Path]) -> Iterator[Benchmark]:
    """The benchmarks that users brought along, found by the names of their files."""
    named = {benchmark.name for benchmark in registry.all_benchmarks()}
    files = {file.name: file for place in where for file in place.glob("*.jsonl")}
    for name, file in sorted(files.items()):
        benchmark = registry.get(file.stem)
        if benchmark is not None and benchmark.name not in named and name in benchmark.files:
            yield benchmark


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
    """How many questions there are; null where neither file nor benchmark tells."""
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
