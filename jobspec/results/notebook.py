"""A table of runs as HTML for notebooks, like the one of the report page.

Everything is in the text: no script, no other file. Classes and colours are the page's
(`jobspec/dashboard/assets/style.css`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Literal

from jobspec.records.base import State
from jobspec.results import columns, table
from jobspec.results.columns import RunColumn
from jobspec.results.table import ResultRow, Score

_WORDS = {State.PENDING.value: "waiting", State.SUCCEEDED.value: "done"}
_LIGHT = (
    "--text:#1a1d21;--quiet:#565d66;--line:#d5d9de;--link:#0b5cad;--good:#0a6b3d;--bad:#b3261e;"
    "--warn:#8a4b00;--panel:#f5f6f8;--ground:#fff"
)
_DARK = (
    "--text:#e8eaed;--quiet:#a9b1ba;--line:#3a4149;--link:#8ab8f0;--good:#6fd39c;--bad:#ff9d94;"
    "--warn:#f3b562;--panel:#1e2227;--ground:#14171b"
)
# Jupyter and VS Code say which theme they have; elsewhere the reader's system does.
_STYLE = f"""
.jobspec-runs {{ {_LIGHT}; background: var(--ground); color: var(--text); overflow-x: auto;
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }}
@media (prefers-color-scheme: dark) {{ .jobspec-runs {{ {_DARK} }} }}
[data-jp-theme-light="true"] .jobspec-runs, .vscode-light .jobspec-runs {{ {_LIGHT} }}
[data-jp-theme-light="false"] .jobspec-runs, .vscode-dark .jobspec-runs {{ {_DARK} }}
.jobspec-runs table {{ border-collapse: collapse; width: auto; margin: 0; font-size: .9rem;
  font-variant-numeric: tabular-nums; color: inherit; }}
.jobspec-runs th, .jobspec-runs td {{ text-align: left; padding: .32rem .6rem; border: 0;
  border-bottom: 1px solid var(--line); vertical-align: top; background: none; color: inherit; }}
.jobspec-runs thead th {{ border-bottom: 2px solid var(--line); font-weight: 600; }}
.jobspec-runs tbody th {{ font-weight: 400; }}
.jobspec-runs tbody tr:hover {{ background: var(--panel); }}
.jobspec-runs .n {{ text-align: right; white-space: nowrap; }}
.jobspec-runs small {{ display: block; color: var(--quiet); }}
.jobspec-runs .state, .jobspec-runs .value {{ font-weight: 600; }}
.jobspec-runs .succeeded, .jobspec-runs .best {{ color: var(--good); }}
.jobspec-runs .failed {{ color: var(--bad); }} .jobspec-runs .running {{ color: var(--link); }}
.jobspec-runs .cancelled, .jobspec-runs .cut {{ color: var(--warn); }}
.jobspec-runs .pending, .jobspec-runs p {{ color: var(--quiet); }}
.jobspec-runs p {{ font-size: .85rem; margin: .4rem 0; }}
"""
_LEGEND = (
    "Scores have their 95 % intervals. ★ the best beyond all other intervals; ≈ may be the best, "
    "not decided; ! more than a tenth of the answers cut off."
)
_FAILED = "failed: "  # the state says it
Standing = Literal["best", "close"]


def to_html(rows: Sequence[ResultRow]) -> str:
    """The runs as an HTML table with its own style; all text is escaped."""
    shown = _in_the_pages_order(columns.columns(rows))
    standings = {name: _standing(rows, name) for name in table.benchmarks(rows)}
    head = "".join(f'<th scope="col"{_number(each)}>{escape(_title(each))}</th>' for each in shown)
    body = "".join(f"<tr>{''.join(_cells(row, shown, standings))}</tr>" for row in rows)
    told = [*([_LEGEND] if standings else []), *columns.cost_legend(rows)]
    below = "".join(f"<p>{escape(each)}</p>" for each in told)
    if not rows:
        return f'<style>{_STYLE}</style><div class="jobspec-runs"><p>No runs yet.</p></div>'
    head = f'<thead><tr><th scope="col">Run</th>{head}</tr></thead>'
    drawn = f"<table>{head}<tbody>{body}</tbody></table>"
    return f'<style>{_STYLE}</style><div class="jobspec-runs">{drawn}{below}</div>'


def _in_the_pages_order(shown: Sequence[RunColumn]) -> list[RunColumn]:
    """State and scores first, then losses and settings. A run's name replaces its id."""
    kinds = ("state", "score", "loss", "held-out", "cost", "model", "rate", "setting")
    return [each for kind in kinds for each in shown if each.kind == kind]


def _title(column: RunColumn) -> str:
    names = {"loss": "Train loss", "held-out": "Held-out loss", "rate": "Learning rate"}
    if column.kind in ("score", "setting", "cost"):
        return column.title
    return names.get(column.kind, column.title.capitalize())


def _number(column: RunColumn) -> str:
    return ' class="n"' if column.right else ""


def _cells(
    row: ResultRow, shown: Sequence[RunColumn], standings: dict[str, dict[str, Standing]]
) -> Iterator[str]:
    yield f'<th scope="row" title="{escape(row.job)}">{escape(row.name)}</th>'
    for column in shown:
        if column.kind == "state":
            content = _state(row)
        elif column.kind == "score" and column.name in row.scores:
            score = row.scores[column.name]
            content = _score(score, standings[column.name].get(row.job))
        else:
            content = escape(column.text(row))
        yield f"<td{_number(column)}>{content}</td>"


def _state(row: ResultRow) -> str:
    text = _WORDS.get(row.state, columns.state(row))
    why = f"<small>{escape(row.why.removeprefix(_FAILED))}</small>" if row.why else ""
    return f'<span class="state {escape(row.state)}">{escape(text)}</span>{why}'


def _score(score: Score, standing: Standing | None) -> str:
    mark = {"best": " ★", "close": " ≈", None: ""}[standing]
    cut = ' <span class="cut">!</span>' if columns.is_cut_off(score) else ""
    ends = score.interval
    interval = "" if ends is None else f"<small>{ends[0]:.2f} to {ends[1]:.2f}</small>"
    kind = "value best" if standing == "best" else "value"
    return f'<span class="{kind}">{score.value:.3f}{mark}</span>{cut}{interval}'


def _standing(rows: Sequence[ResultRow], benchmark: str) -> dict[str, Standing]:
    """For each job that may be the best one: `best` if its interval lies beyond all others.

    Nothing is said of scores of which none is decided, or that were measured by other metrics.
    """
    found: dict[str, Standing] = {}
    scored = {row.job: row.scores[benchmark] for row in rows if benchmark in row.scores}
    for metric in dict.fromkeys(score.metric for score in scored.values()):
        rivals = {job: score for job, score in scored.items() if score.metric == metric}
        choose = max if next(iter(rivals.values())).higher_is_better else min
        top = choose(rivals.values(), key=lambda score: score.value)
        close = [job for job, score in rivals.items() if _overlap(score, top)]
        if len(close) < len(rivals):
            decided = len(close) == 1 and top.interval is not None
            found |= dict.fromkeys(close, "best" if decided else "close")
    return found


def _overlap(a: Score, b: Score) -> bool:
    low_a, high_a = a.interval or (a.value, a.value)
    low_b, high_b = b.interval or (b.value, b.value)
    return low_a <= high_b and low_b <= high_a
