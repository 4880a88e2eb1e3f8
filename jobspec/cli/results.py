"""`jobspec results`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
import msgspec

from jobspec.cli.common import common, complete_jobs, jobs_argument, open_queue, wants_json
from jobspec.cli.output import Cell, Column, Table, emit_struct, say
from jobspec.cli.progress import waiting
from jobspec.cli.status_view import COLOURS
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records.base import State
from jobspec.results import columns, formats, table
from jobspec.results.columns import RunColumn
from jobspec.results.table import ResultRow

_MODEL = "model"  # the kind of a column
_SCORE = 7  # the rank at which scores lose their intervals


@click.command()
@jobs_argument(required=False)
@click.option(
    "--csv",
    "form",
    flag_value="csv",
    help="Print settings, every metric and interval as CSV, one line for each job.",
)
@click.option(
    "--markdown", "form", flag_value="markdown", help="Print the table in Markdown, for a README."
)
@click.option(
    "--latex",
    "form",
    flag_value="latex",
    help="Print the table in LaTeX, for a paper (needs booktabs).",
)
@click.option(
    "--against",
    metavar="JOB",
    shell_complete=complete_jobs,
    help="Add each job's difference from this one, as `compare` computes it.",
)
@click.option(
    "--cost",
    is_flag=True,
    help="Add GPU-hours used and lost, and the energy of all attempts, a token and a sample.",
)
@common
def results(jobs: tuple[str, ...], form: str | None, against: str | None, cost: bool) -> None:
    """Show runs: state, settings that differ, losses, scores; the best scores are marked.

    \b
    jobspec results
    jobspec results 'qwen3-*' --csv > scores.csv
    jobspec results 'qwen3-*' --against qwen3-8b-base
    jobspec results --latex > scores.tex

    The brackets hold the 95 % interval over questions, or over samples if there is no other; --json
    has both. An original model comes before the models tuned from it; it is marked `calibrated` if
    it was scored with the settings of its published scores. Without names, jobs that have not
    started are left out.
    """
    queue = open_queue(write=False)
    jobs_shown = queue.select(jobs) if jobs else list(filter(table.was_started, queue.jobs()))
    with waiting("reading jobs", len(jobs_shown)) as wait:
        rows = table.all_rows(wait.each(jobs_shown), cost=cost)
        if against is not None:
            rows = _with_differences(rows, queue, queue.job(against))
    if wants_json():
        return emit_struct(table.results(str(queue.paths.root), rows))
    if form == "csv":
        return click.echo(formats.to_csv(rows), nl=False)
    if not rows:
        return say("no runs yet: `jobspec status` shows what waits, and why")
    made = {"markdown": formats.markdown, "latex": formats.latex}
    if form is not None:
        click.echo("\n".join(made[form](rows)))
        return None
    _print_table(rows)
    return None


def _with_differences(rows: Sequence[ResultRow], queue: Queue, other: Job) -> list[ResultRow]:
    from jobspec.results import pairing  # here, since few calls need it

    return [
        msgspec.structs.replace(row, against=pairing.differences_from(queue.job(row.job), other))
        if row.job != other.id and table.has_result(row)
        else row
        for row in rows
    ]


def _print_table(rows: Sequence[ResultRow]) -> None:
    drawn = make_table(rows)
    for line in drawn.lines():
        click.echo(line)
    for line in columns.legend(rows):
        say(line, fg="yellow" if line.startswith("!") else None)
    hidden = [title for title in drawn.left_out() if title != "job"]
    if any(each.title in drawn.shortened() for each in drawn.columns if each.brief_rank == _SCORE):
        hidden.append("intervals")
    if hidden:
        say(f"no room for {', '.join(hidden)}: widen the terminal, or use --markdown or --csv")


def make_table(rows: Sequence[ResultRow]) -> Table:
    """The table of runs for the terminal."""
    shown = columns.columns(rows)
    drawn = Table([_column(each, rows) for each in shown])
    models = _without_owners(
        each.text(row) for each in shown for row in rows if each.kind == _MODEL
    )
    for row in rows:
        notes = [Cell(text, _warning_colour(row)) for text in columns.warnings(row)]
        notes += [Cell(text, dim=True) for text in columns.notes(row)]
        drawn.add(*(_cell(row, each, models) for each in shown), notes=notes)
    return drawn


def _without_owners(models: Iterable[str]) -> dict[str, str]:
    """Names of models without their owners, if they differ without them."""
    short = {model: model.rpartition("/")[2] for model in models}
    return short if len(set(short.values())) == len(short) else {}


def _column(column: RunColumn, rows: Sequence[ResultRow]) -> Column:
    """A column with its rank: what is left out first where room is short."""
    ranks = {"job": 2, "held-out": 4, "loss": 5, "setting": 6, "state": 8, "cost": 8}
    if column.kind == "state" and all(row.state == State.SUCCEEDED for row in rows):
        return Column(column.title, 3)
    briefly = {"model": 3, "state": 3, "score": _SCORE}.get(column.kind)
    rank = ranks.get(column.kind, 9)
    return Column(column.title, rank, right=column.right, brief_rank=briefly)


def _cell(row: ResultRow, column: RunColumn, models: dict[str, str]) -> Cell:
    text = column.text(row)
    if column.kind == "state":
        brief = "done" if row.state == State.SUCCEEDED else text
        return Cell(text, COLOURS[State(row.state)], brief=brief)
    score = row.scores.get(column.name) if column.kind == "score" else None
    if score is None:
        base = row.learning_rate is None and column.kind in ("model", "rate")
        return Cell(text, dim=base, brief=models.get(text))
    marks = f"{'*' if score.best else ' '}{'!' if columns.is_cut_off(score) else ' '}"
    colour = "green" if score.best else None
    brief = columns.spell_score(score, "") + marks
    return Cell(columns.spell_score(score) + marks, colour, score.best, brief=brief)


def _warning_colour(row: ResultRow) -> str:
    return "red" if row.state == State.FAILED and not row.scores else "yellow"
