"""`jobspec results`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from jobspec import new
from jobspec import results as scores
from jobspec.cli.common import common, jobs_argument, open_queue, wants_json
from jobspec.cli.output import Cell, Column, Table, emit_struct, say
from jobspec.cli.screen import short
from jobspec.results import ResultRow, Score

_TRUNCATED = 0.1  # above this share of answers cut off, a score says little


@click.command()
@jobs_argument(required=False)
@click.option("--csv", "as_csv", is_flag=True, help="Every metric, a line a job.")
@click.option("--markdown", is_flag=True, help="The table, for a README.")
@common
def results(jobs: tuple[str, ...], as_csv: bool, markdown: bool) -> None:
    """Show the scores of finished jobs; the best of each benchmark is marked.

    \b
    jobspec results
    jobspec results 'qwen3-*' --csv > scores.csv

    After the sign ± stands the standard error over questions (within questions where there is no
    other). A model that was scored without training stands first among those tuned from it.
    """
    queue = open_queue()
    found = scores.rows(queue.select(jobs) if jobs else queue.jobs())
    if wants_json():
        return emit_struct(scores.Results(root=str(queue.paths.root), results=found))
    if as_csv:
        return click.echo(scores.to_csv(found), nl=False)
    if not found:
        return say("no finished jobs yet: `jobspec status` shows how far they are")
    for line in _markdown(found) if markdown else _table(found).lines():
        click.echo(line)
    if any(_is_cut_off(score) for row in found for score in row.scores.values()):
        say(f"! more than {_TRUNCATED:.0%} of the answers were cut off by length", fg="yellow")
    return None


def _table(found: Sequence[ResultRow]) -> Table:
    names = scores.benchmarks(found)
    columns = [Column("model"), Column("lr"), Column("epochs", 3, right=True)]
    columns += [Column(_title(name, found), right=True) for name in names]
    table = Table([*columns, Column("job", 2)])
    for row in found:
        base = row.learning_rate is None
        table.add(
            Cell(row.model, dim=base),
            Cell("base" if base else new.spell_rate(row.learning_rate), dim=base),
            "" if row.num_train_epochs is None else f"{row.num_train_epochs:g}",
            *(_cell(row.scores.get(name)) for name in names),
            row.job,
        )
    return table


def _cell(score: Score | None) -> Cell:
    if score is None:
        return Cell("")
    marks = f"{'*' if score.best else ' '}{'!' if _is_cut_off(score) else ' '}"
    return Cell(_spell(score) + marks, "green" if score.best else None, score.best)


def _is_cut_off(score: Score) -> bool:
    return score.truncated_frac is not None and score.truncated_frac > _TRUNCATED


def _spell(score: Score) -> str:
    error = score.stderr if score.stderr is not None else score.sampling_stderr
    return f"{score.value:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _title(name: str, found: Sequence[ResultRow]) -> str:
    """The benchmark and, where rows agree and it does not go without saying, its metric."""
    metrics = {row.scores[name].metric for row in found if name in row.scores}
    metric = metrics.pop() if len(metrics) == 1 else ""
    shown = "" if metric == "math_verify" else metric.replace("avg_at_", "avg@")
    return f"{short(name)} {shown}".rstrip()


def _markdown(found: Sequence[ResultRow]) -> list[str]:
    names = scores.benchmarks(found)
    lines = ["| model | lr | " + " | ".join(_title(name, found) for name in names) + " |"]
    lines.append("| --- | --- |" + " ---: |" * len(names))
    for row in found:
        rate = "base" if row.learning_rate is None else new.spell_rate(row.learning_rate)
        cells = [_markdown_cell(row.scores.get(name)) for name in names]
        lines.append(f"| {row.model} | {rate} | " + " | ".join(cells) + " |")
    return lines


def _markdown_cell(score: Score | None) -> str:
    if score is None:
        return ""
    return f"**{_spell(score)}**" if score.best else _spell(score)
