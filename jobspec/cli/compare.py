"""`jobspec compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from jobspec.benchmarks import protocol
from jobspec.benchmarks.protocol import Differing
from jobspec.cli.common import common, complete_jobs, open_queue, wants_json
from jobspec.cli.output import Cell, Column, Table, complain, emit
from jobspec.errors import BenchmarkError, JobspecError
from jobspec.queue.job import Job
from jobspec.records import evaluation
from jobspec.results import comparison as pairs
from jobspec.results.comparison import Difference
from jobspec.results.evaluations import evaluated_attempt


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark in `compare --json`. `difference` is null if the comparison is refused."""

    benchmark: str
    differs: list[Differing]
    difference: Difference | None


@click.command()
@click.argument("a", shell_complete=complete_jobs)
@click.argument("b", shell_complete=complete_jobs)
@click.option(
    "--benchmark",
    "wanted",
    metavar="NAME",
    multiple=True,
    help="Compare only this benchmark; may be repeated.  [default: all that both jobs have]",
)
@click.option("--anyway", is_flag=True, help="Compare even if the two were measured differently.")
@common
def compare(a: str, b: str, wanted: tuple[str, ...], anyway: bool) -> None:
    """Compare two jobs, or their epochs, question by question: B − A with its 95 % intervals.

    \b
    jobspec compare qwen3-8b-base qwen3-8b-lr1e-5
    jobspec compare qwen3-8b-base qwen3-8b-lr1e-5 --benchmark aime24

    The interval over samples says how much the difference would vary with other samples of the
    same questions; the interval over questions, with other questions. A benchmark that was
    measured differently in the two jobs is refused.
    """
    queue = open_queue()
    sides = (queue.job(a), queue.job(b))
    left, right = (_directories(job) for job in sides)
    names = list(wanted) or [name for name in left if name in right]
    rows = [_compare(name, _one(left, name), _one(right, name), anyway) for name in names]
    if not rows:
        raise BenchmarkError(
            f"the jobs have no benchmark in common: {_listed(left)} and {_listed(right)}",
            hint="score both on the same benchmark, for example with `jobspec eval --benchmarks`",
        )
    refused = [_refusal(row) for row in rows if row.difference is None]
    if refused:
        complain(refused, as_json=False)
    if wants_json():
        emit({"a": sides[0].id, "b": sides[1].id, "benchmarks": rows})
    else:
        for line in _lines(sides, [row for row in rows if row.difference is not None]):
            click.echo(line)
    click.get_current_context().exit(1 if refused else 0)


def _directories(job: Job) -> dict[str, Path]:
    return evaluation.benchmark_dirs(evaluated_attempt(job).eval)


def _one(directories: dict[str, Path], name: str) -> Path:
    if name not in directories:
        raise BenchmarkError(
            f"benchmark `{name}` is not in both jobs", hint=f"the job has {_listed(directories)}"
        )
    return directories[name]


def _listed(directories: dict[str, Path]) -> str:
    return ", ".join(directories)


def _compare(name: str, a: Path, b: Path, anyway: bool) -> Compared:
    differs = protocol.differences(
        evaluation.read_plan(a).protocol, evaluation.read_plan(b).protocol
    )
    if differs and not anyway:
        return Compared(benchmark=name, differs=differs, difference=None)
    left, right = (evaluation.outcomes(evaluation.read_scores(side)) for side in (a, b))
    difference = pairs.compare(left, right)
    if difference is None:
        raise BenchmarkError(f"the jobs have no question of `{name}` in common", file=b)
    return Compared(benchmark=name, differs=differs, difference=difference)


def _refusal(row: Compared) -> JobspecError:
    differences = "; ".join(map(str, row.differs))
    return BenchmarkError(
        f"`{row.benchmark}` was measured differently: {differences}",
        hint="--anyway compares them nevertheless; prompt_sha256 also differs if only the chat "
        "template does",
    )


def _lines(sides: tuple[Job, Job], rows: Sequence[Compared]) -> list[str]:
    if not rows:
        return []
    columns = [Column("benchmark"), Column("A", right=True), Column("B", right=True)]
    columns += [Column("B − A", right=True), Column("95 % over samples", right=True)]
    columns += [Column("over questions", 5, right=True), Column("beyond noise")]
    table = Table([*columns, Column("questions", 3, right=True)])
    for row in rows:
        assert row.difference is not None
        table.add(*_cells(row.benchmark, row.difference), notes=_notes(row, row.difference))
    head = [f"{letter}  {job.id}" for letter, job in zip("AB", sides, strict=True)]
    return [*head, "", *table.lines()]


def _cells(name: str, difference: Difference) -> list[Cell | str]:
    better = "green" if difference.mean > 0 else "red"
    return [
        name,
        f"{difference.a:.3f}",
        f"{difference.b:.3f}",
        f"{difference.mean:+.3f}",
        _interval(difference.sampling_low, difference.sampling_high),
        _interval(difference.low, difference.high),
        Cell("yes", better, bold=True) if difference.beyond_noise else "no",
        str(difference.questions),
    ]


def _interval(low: float | None, high: float | None) -> str:
    return "unknown" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"


def _notes(row: Compared, difference: Difference) -> list[Cell]:
    notes: list[Cell] = []
    if row.differs:
        notes.append(Cell(f"measured differently: {'; '.join(map(str, row.differs))}", "yellow"))
    sides: list[Any] = [("A", difference.only_a), ("B", difference.only_b)]
    notes += [Cell(f"{n} questions only in {side}", dim=True) for side, n in sides if n]
    return notes
