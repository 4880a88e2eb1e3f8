"""A table of runs as CSV, as GitHub's Markdown and as LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from jobspec.monitoring import cost as costs
from jobspec.monitoring.cost import Cost
from jobspec.records.base import UNSET, State
from jobspec.results import columns, settings, table
from jobspec.results.columns import RunColumn
from jobspec.results.table import ResultRow

_ENDS = ("low", "high", "sampling_low", "sampling_high")
_FACTS = ("job", "name", "model", "learning_rate", "num_train_epochs", "attempt")
_MORE_FACTS = ("state", "why", "loss", "eval_loss")
_OF_COST = (
    *("wall_s", "measured_s", "gpu_j", "cpu_j", "j_per_token", "j_per_sample"),
    *("co2_g", "co2_g_per_kwh"),
)
_TEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "≥": r"$\geq$",
    "\n": " ",
}
# An underscore within a word emphasizes nothing.
_MARKDOWN = re.compile(r"[\\|*`<\[\]~]|(?<!\w)_|_(?!\w)")


def to_csv(rows: Sequence[ResultRow]) -> str:
    """Format runs as CSV: what they are, what differs, every metric, each score's intervals.

    What a run does not have is empty, also energy that was not measured.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row.metrics))
    ends = [(name, end) for name in table.benchmarks(rows) for end in _ENDS]
    facts = _facts(rows)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = facts[0] if facts else (*_FACTS, *_MORE_FACTS)
    writer.writerow([*head, *keys, *(f"bench/{name}/{end}" for name, end in ends)])
    for row, known in zip(rows, facts, strict=True):
        values = [*known.values(), *(row.metrics.get(key) for key in keys)]
        values += [getattr(row.scores.get(name), end, None) for name, end in ends]
        writer.writerow(["" if value is None else value for value in values])
    return out.getvalue()


def flat_rows(rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """Runs as dictionaries with the same keys: as in CSV, with the scores and their intervals."""
    names = table.benchmarks(rows)
    return [
        known | {key: value for name in names for key, value in _score(row, name).items()}
        for row, known in zip(rows, _facts(rows), strict=True)
    ]


def _facts(rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """What each run is, how it went, the settings that differ, and its cost if it is known."""
    differing = _differing(rows)
    costs_of = [row.cost for row in rows if row.cost is not None]
    reasons = dict.fromkeys(reason for each in costs_of for reason in each.lost_gpu_h)
    found: list[dict[str, Any]] = []
    for row in rows:
        known = {name: getattr(row, name) for name in (*_FACTS, *_MORE_FACTS)}
        values = {name: settings.setting(row, name) for name in differing}
        known |= {k: None if v is UNSET else v for k, v in values.items()}
        found.append(known | (_cost(row.cost, reasons) if row.cost is not None else {}))
    return found


def _cost(found: Cost, reasons: Iterable[str]) -> dict[str, float | None]:
    """The fields of a cost, the lost hours for each reason, and the energy of the tables in kWh."""
    joules = found.joules
    lost = {f"lost_gpu_h/{each}": found.lost_gpu_h.get(each, 0.0) for each in reasons}
    known = {name: getattr(found, name) for name in _OF_COST}
    kwh = None if joules is None else joules / costs.JOULES_PER_KWH
    return {"gpu_h": found.gpu_h, "lost_gpu_h": found.lost_h, **lost, "kwh": kwh, **known}


def _differing(rows: Sequence[ResultRow]) -> list[str]:
    return [name for name in settings.differing(rows) if name not in columns.ALWAYS]


def _score(row: ResultRow, name: str) -> dict[str, float | None]:
    score = row.scores.get(name)
    low, high = (score.interval if score is not None else None) or (None, None)
    value = score.value if score is not None else None
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def markdown(rows: Sequence[ResultRow]) -> list[str]:
    """The table in GitHub's Markdown, and below it what the terminal prints below rows."""
    shown = columns.columns(rows)
    lines = [_row(markdown_text(each.title) for each in shown)]
    lines.append(_row("---:" if each.right else "---" for each in shown))
    lines += [
        _row(_cell(row, each, markdown_text, "**{}**", " {}") for each in shown) for row in rows
    ]
    below = [f"- {markdown_text(note)}" for note in _notes(rows)]
    return [*lines, "", *below] if below else lines


def latex(rows: Sequence[ResultRow]) -> list[str]:
    """The table in LaTeX; needs the package booktabs. The states are left out if all are equal."""
    shown = columns.columns(rows)
    if all(row.state == State.SUCCEEDED for row in rows):
        shown = [each for each in shown if each.kind != "state"]
    shown = [each for each in shown if each.kind != "job"]
    align = "".join("r" if each.right else "l" for each in shown)
    titles = (latex_text(_capital(each.title)) for each in shown)
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", _tex_row(titles), r"\midrule"]
    bold, around = r"\textbf{{{}}}", r" {{\small {}}}"
    for number, row in enumerate(rows):
        if number and row.model != rows[number - 1].model:
            lines.append(r"\midrule")
        lines.append(_tex_row(_cell(row, each, latex_text, bold, around) for each in shown))
    below = [f"% {' '.join(note.split())}" for note in _notes(rows)]
    return [*lines, r"\bottomrule", r"\end{tabular}", *below]


def markdown_text(text: str) -> str:
    """The text with Markdown's special characters escaped, on one line."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(text.split()))


def latex_text(text: str) -> str:
    """The text with LaTeX's special characters escaped."""
    return "".join(_TEX.get(letter, letter) for letter in text)


def _row(cells: Iterator[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _tex_row(cells: Iterator[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _cell(
    row: ResultRow, column: RunColumn, escape: Callable[[str], str], bold: str, around: str
) -> str:
    """A cell; a score with its interval, the best one formatted by `bold`."""
    if column.kind != "score":
        return escape(column.text(row))
    score = row.scores.get(column.name)
    if score is None:
        return ""
    text = columns.spell_score(score, around)
    return (bold.format(text) if score.best else text) + (" !" if columns.is_cut_off(score) else "")


def _notes(rows: Sequence[ResultRow]) -> list[str]:
    """What is said about runs, each with its job, and how scores are to be read."""
    found = [
        note if note.startswith(row.job) else f"{row.job}: {note}"
        for row in rows
        for note in (*columns.warnings(row), *columns.notes(row))
    ]
    return found + columns.legend(rows)


def _capital(title: str) -> str:
    return "LR" if title == "lr" else title[:1].upper() + title[1:]
