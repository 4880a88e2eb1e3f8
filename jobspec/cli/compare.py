"""`jobspec compare`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from jobspec.cli.common import common, complete_jobs, open_queue, wants_json
from jobspec.cli.output import Cell, Column, Table, complain, emit
from jobspec.cli.progress import waiting
from jobspec.errors import BenchmarkError, JobspecError
from jobspec.queue.job import Job
from jobspec.results import pairing
from jobspec.results.difference import Difference
from jobspec.results.pairing import Compared, add_seeds
from jobspec.results.seeds import SeedDifference
from jobspec.results.significance import spell_probability


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
@click.option("--seeds", is_flag=True, help="Also compare all jobs that differ in train.seed only.")
@click.option("--anyway", is_flag=True, help="Compare even if the two were measured differently.")
@common
def compare(a: str, b: str, wanted: tuple[str, ...], seeds: bool, anyway: bool) -> None:
    """Compare two jobs, or their epochs, question by question: B − A with its 95 % intervals.

    \b
    jobspec compare qwen3-8b-base qwen3-8b-lr1e-5
    jobspec compare qwen3-8b-base qwen3-8b-lr1e-5 --benchmark aime24

    The interval over samples says how much the difference would vary with other samples of the
    same questions; the interval over questions, with other questions. A difference within noise
    is shown with the samples, questions or seeds that would decide it. A benchmark that was
    measured differently in the two jobs is refused.
    """
    queue = open_queue(write=False)
    sides = (queue.job(a), queue.job(b))
    left, right = (pairing.evaluations(job) for job in sides)
    names = list(wanted) or pairing.in_common(left, right)
    with waiting("comparing benchmarks", len(names)) as wait:
        rows = [
            pairing.compare_benchmark(name, _one(left, name), _one(right, name), anyway=anyway)
            for name in wait.each(names)
        ]
        if seeds:
            rows = add_seeds(rows, *sides, queue.jobs())
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


def _one(directories: dict[str, Path], name: str) -> Path:
    if name not in directories:
        raise BenchmarkError(
            f"benchmark `{name}` is not in both jobs", hint=f"the job has {_listed(directories)}"
        )
    return directories[name]


def _listed(directories: dict[str, Path]) -> str:
    return ", ".join(directories)


def _refusal(row: Compared) -> JobspecError:
    differences = "; ".join(map(str, row.differs))
    hint = (
        "--anyway compares them nevertheless; prompt_sha256 also differs if only the chat template "
        "does"
    )
    if [each.field for each in row.differs] == ["answer_reader"]:
        hint = "`jobspec rescore` reads the answers of both with the present rules"
    return BenchmarkError(f"`{row.benchmark}` was measured differently: {differences}", hint=hint)


def _lines(sides: tuple[Job, Job], rows: Sequence[Compared]) -> list[str]:
    if not rows:
        return []
    columns = [Column("benchmark"), Column("A", right=True), Column("B", right=True)]
    columns += [Column("B − A", right=True), Column("95 % over samples", right=True)]
    columns += [Column("over questions", 5, right=True), Column("p", 2, right=True)]
    table = Table([*columns, Column("beyond noise"), Column("questions", 3, right=True)])
    for row in rows:
        assert row.difference is not None
        table.add(*_cells(row.benchmark, row.difference), notes=_notes(row, row.difference))
    head = [f"{letter}  {job.id}" for letter, job in zip("AB", sides, strict=True)]
    tests = dict.fromkeys(row.difference.test for row in rows if row.difference)
    named = ", ".join(filter(None, tests))
    foot = [f"p: how likely a difference at least as large is by luck alone ({named})"]
    return [*head, "", *table.lines(), *(["", *foot] if named else [])]


def _cells(name: str, difference: Difference) -> list[Cell | str]:
    better = "green" if (difference.mean > 0) == difference.higher_is_better else "red"
    return [
        name,
        f"{difference.a:.3f}",
        f"{difference.b:.3f}",
        f"{difference.mean:+.3f}",
        _interval(difference.sampling_low, difference.sampling_high),
        _interval(difference.low, difference.high),
        "unknown" if difference.p_value is None else spell_probability(difference.p_value),
        Cell("yes", better, bold=True) if difference.beyond_noise else "no",
        str(difference.questions),
    ]


def _interval(low: float | None, high: float | None) -> str:
    return "unknown" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"


def _needs(difference: Difference) -> Iterator[str]:
    """What would decide whether there is a difference of this size."""
    if difference.beyond_noise:
        return
    if difference.samples_needed is not None:
        yield f"about {difference.samples_needed:,} samples a question would decide it"
    if difference.questions_needed is not None:
        yield (f"about {difference.questions_needed:,} questions would decide it")


def _seeds(found: SeedDifference) -> str:
    text = (
        f"over {found.a_seeds} and {found.b_seeds} training seeds: {found.mean:+.3f}, "
        f"{_interval(found.low, found.high)}, p {spell_probability(found.p_value)}"
    )
    if found.low <= 0 <= found.high and found.seeds_needed is not None:
        text += f"; about {found.seeds_needed:,} seeds would decide it"
    return text


def _notes(row: Compared, difference: Difference) -> list[Cell]:
    notes: list[Cell] = []
    if row.differs:
        notes.append(Cell(f"measured differently: {'; '.join(map(str, row.differs))}", "yellow"))
    notes += [] if difference.higher_is_better else [Cell("lower is better", dim=True)]
    notes += [Cell(text, dim=True) for text in _needs(difference)]
    notes += [Cell(_seeds(row.over_seeds))] if row.over_seeds is not None else []
    sides: list[Any] = [("A", difference.only_a), ("B", difference.only_b)]
    notes += [Cell(f"{n} questions only in {side}", dim=True) for side, n in sides if n]
    return notes
