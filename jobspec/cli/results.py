"""`jobspec results`."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from jobspec.cli.common import common, complete_jobs, jobs_argument, open_queue, wants_json
from jobspec.cli.output import Cell, Column, Table, emit_struct, say, spell_probability
from jobspec.cli.status_view import short
from jobspec.monitoring import reasons
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.results import table as scores
from jobspec.results.difference import Difference
from jobspec.results.table import ResultRow, Score
from jobspec.spec import builder

_TRUNCATED = 0.1  # if more than this fraction of answers is cut off, a score means little


@click.command()
@jobs_argument(required=False)
@click.option(
    "--csv",
    "form",
    flag_value="csv",
    help="Print every metric and interval as CSV, one line for each job.",
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
@common
def results(jobs: tuple[str, ...], form: str | None, against: str | None) -> None:
    """Show the scores of finished jobs; the best of each benchmark is marked.

    \b
    jobspec results
    jobspec results 'qwen3-*' --csv > scores.csv
    jobspec results 'qwen3-*' --against qwen3-8b-base
    jobspec results --latex > scores.tex

    The brackets hold the 95 % interval over questions, or over samples if there is no other; --json
    has both. An original model comes before the models tuned from it; it is marked `calibrated` if
    it was scored with the settings of its published scores. A job that failed is listed if some of
    its benchmarks have a score.
    """
    queue = open_queue(write=False)
    rows = scores.rows(queue.select(jobs) if jobs else queue.jobs())
    if against is not None:
        rows = _with_differences(rows, queue, queue.job(against))
    if wants_json():
        return emit_struct(scores.Results(root=str(queue.paths.root), results=rows))
    if form == "csv":
        return click.echo(scores.to_csv(rows), nl=False)
    if not rows:
        return say("no finished jobs yet: `jobspec status` shows how far they are")
    made = {None: lambda: _table(rows).lines(), "markdown": lambda: markdown(rows)}
    for line in made.get(form, lambda: latex(rows))():
        click.echo(line)
    if any(not score.higher_is_better for row in rows for score in row.scores.values()):
        say("lower is better: " + ", ".join(_low_ones(rows)))
    if any(_is_cut_off(score) for row in rows for score in row.scores.values()):
        say(f"! more than {_TRUNCATED:.0%} of the answers were cut off by length", fg="yellow")
    return None


def _with_differences(rows: Sequence[ResultRow], queue: Queue, other: Job) -> list[ResultRow]:
    from jobspec.results import pairing  # here, since few calls need it

    return [
        msgspec.structs.replace(row, against=pairing.differences_from(queue.job(row.job), other))
        if row.job != other.id
        else row
        for row in rows
    ]


def _low_ones(rows: Sequence[ResultRow]) -> list[str]:
    """The benchmarks whose numbers should be low."""
    low = (name for row in rows for name, s in row.scores.items() if not s.higher_is_better)
    return list(dict.fromkeys(low))


def _table(rows: Sequence[ResultRow]) -> Table:
    names = scores.benchmarks(rows)
    columns = [Column("model"), Column("lr"), Column("epochs", 3, right=True)]
    columns += [Column(_title(name, rows), right=True) for name in names]
    table = Table([*columns, Column("job", 2)])
    for row in rows:
        base = row.learning_rate is None
        table.add(
            Cell(row.model, dim=base),
            Cell(_rate(row), dim=base),
            _epochs(row),
            *(_cell(row.scores.get(name)) for name in names),
            row.job,
            notes=_notes(row),
        )
    return table


def _notes(row: ResultRow) -> list[Cell]:
    notes = [Cell(reasons.loss_rise(row.loss_rise), "yellow")] if row.loss_rise else []
    notes += [Cell(_saving(name, s), dim=True) for name, s in row.scores.items() if s.k_at_most]
    notes += [Cell(_difference(name, each), dim=True) for name, each in row.against.items()]
    return notes + [
        Cell(f"{name} has no score: {why}", "yellow") for name, why in row.failed.items()
    ]


def _saving(name: str, score: Score) -> str:
    """The samples that a stop rule led to, and what it saved."""
    saved = f"saved {score.samples_saved or 0:,} samples, about {score.tokens_saved or 0:,} tokens"
    return f"{short(name)} avg@{score.k} of at most {score.k_at_most}: {saved}"


def _difference(name: str, found: Difference) -> str:
    """A difference from the other job with its interval, p-value and what would decide it."""
    ends = found.interval
    interval = "" if ends is None else f" [{ends[0]:+.2f}, {ends[1]:+.2f}]"
    p_value = "" if found.p_value is None else f", p {spell_probability(found.p_value)}"
    need = found.samples_needed or found.questions_needed
    of = "samples a question" if found.samples_needed else "questions"
    more = f"; about {need:,} {of} would decide it" if need and not found.beyond_noise else ""
    return f"{short(name)} {found.mean:+.3f}{interval}{p_value}{more}"


def _rate(row: ResultRow) -> str:
    return row.kind if row.learning_rate is None else builder.spell_rate(row.learning_rate)


def _epochs(row: ResultRow) -> str:
    return "" if row.num_train_epochs is None else f"{row.num_train_epochs:g}"


def _cell(score: Score | None) -> Cell:
    if score is None:
        return Cell("")
    marks = f"{'*' if score.best else ' '}{'!' if _is_cut_off(score) else ' '}"
    return Cell(_spell(score) + marks, "green" if score.best else None, score.best)


def _is_cut_off(score: Score) -> bool:
    return score.truncated_frac is not None and score.truncated_frac > _TRUNCATED


def _spell(score: Score, around: str = " {}") -> str:
    """A score and its 95 % interval over questions, or else over samples, formatted by `around`.

    With a stop rule, the number of samples follows, which can differ between jobs: `@12`.
    """
    ends = score.interval
    # Two digits are enough: the ends of the interval are not more precise.
    interval = "" if ends is None else around.format(f"[{ends[0]:.2f}, {ends[1]:.2f}]")
    return f"{score.value:.3f}{interval}" + (f" @{score.k}" if score.k_at_most else "")


def _title(name: str, rows: Sequence[ResultRow]) -> str:
    """The benchmark, with its metric if all rows agree and it is not the usual one."""
    found = [row.scores[name] for row in rows if name in row.scores]
    metrics = {"avg_at_k" if score.k_at_most else score.metric for score in found}
    metric = metrics.pop() if len(metrics) == 1 else ""
    shown = "" if metric == "math_verify" else metric.replace("avg_at_", "avg@")
    return f"{short(name)} {shown}".rstrip()


def markdown(rows: Sequence[ResultRow]) -> list[str]:
    """The table in GitHub's Markdown."""
    names = scores.benchmarks(rows)
    titles = " | ".join(_escaped(_title(name, rows), r"\|") for name in names)
    lines = [f"| model | lr | epochs | {titles} |", "| --- | --- | ---: |" + " ---: |" * len(names)]
    for row in rows:
        cells = [_bold(row.scores.get(name), "**{}**", " {}") for name in names]
        facts = [_escaped(row.model, r"\|"), _rate(row), _epochs(row), *cells]
        lines.append(f"| {' | '.join(facts)} |")
    return lines


def latex(rows: Sequence[ResultRow]) -> list[str]:
    """The table in LaTeX; needs the package booktabs."""
    names = scores.benchmarks(rows)
    titles = [_tex(_title(name, rows)) for name in names]
    lines = [rf"\begin{{tabular}}{{llr{'r' * len(names)}}}", r"\toprule"]
    lines += [" & ".join(["Model", "LR", "Epochs", *titles]) + r" \\", r"\midrule"]
    for number, row in enumerate(rows):
        if number and row.model != rows[number - 1].model:
            lines.append(r"\midrule")
        cells = [_bold(row.scores.get(name), r"\textbf{{{}}}", r" {{\small {}}}") for name in names]
        lines.append(" & ".join([_tex(row.model), _rate(row), _epochs(row), *cells]) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _bold(score: Score | None, bold: str, around: str) -> str:
    """A score; the best one is formatted by `bold`."""
    if score is None:
        return ""
    return bold.format(_spell(score, around)) if score.best else _spell(score, around)


def _escaped(text: str, letters: str) -> str:
    return "".join(f"\\{letter}" if letter in letters else letter for letter in text)


def _tex(text: str) -> str:
    """The text with LaTeX's special characters escaped."""
    escapes = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(escapes.get(letter, _escaped(letter, "&%$#_{}")) for letter in text)
