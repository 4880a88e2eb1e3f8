"""The report's charts as plotly's own JSON, data and layout, without text and background colours.

The page takes these from its style sheet, so a chart fits a light page, a dark page and paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from typing import Any, Literal

import msgspec

from jobspec.dashboard.runs import DashboardRun, Point
from jobspec.monitoring.gpu_hours import OVERHEAD
from jobspec.records import phases
from jobspec.spec.builder import spell_rate

# Okabe and Ito's colours, distinct for any kind of colour vision; black is left for the text.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999933")
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
_PHASE_PALETTE = ("#56B4E9", "#CC79A7", "#0072B2", "#009E73", "#E69F00", "#F0E442")
PHASE_COLOURS = dict(zip(phases.NAMES, cycle(_PHASE_PALETTE), strict=False))
PHASE_COLOURS[OVERHEAD] = "#999933"
_LOST = "#D55E00"
_MANY = 12  # the most runs that a legend names
Trace = dict[str, Any]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A chart, a sentence that describes it, and its numbers as a table for screen readers."""

    id: str
    title: str
    says: str
    data: list[Trace]
    layout: dict[str, Any]
    head: list[str] = []
    rows: list[list[str]] = []


def figures(runs: Sequence[DashboardRun]) -> list[Figure]:
    """Every chart that has data."""
    benchmarks = list(dict.fromkeys(name for run in runs for name in run.scores))
    made = [
        _curve(runs, "loss", "Training loss"),
        _curve(runs, "eval_loss", "Held-out loss"),
        _by_source(runs),
        *(_by_rate(runs, name) for name in benchmarks),
        *(_by_epoch(runs, name) for name in benchmarks),
        _bars(runs, benchmarks, "mean_response_tokens"),
        _bars(runs, benchmarks, "truncated_frac"),
        _time(runs),
    ]
    return [figure for figure in made if figure.data]


def _curve(runs: Sequence[DashboardRun], what: Literal["loss", "eval_loss"], title: str) -> Figure:
    shown = [(n, run, getattr(run, what)) for n, run in enumerate(runs) if getattr(run, what)]
    traces = [_line(n, run, points, what == "eval_loss") for n, run, points in shown]
    how = "one point after each epoch, and one before training" if what == "eval_loss" else ""
    mean = "if a run has more than 400 steps, each point is the mean of several"
    return Figure(
        id=what,
        title=title,
        says=f"{title} of {len(traces)} runs by epoch; {how or mean}.",
        data=traces,
        layout=_layout("epoch", "loss", len(traces), log_y=what == "loss"),
        head=["run", "first", "least", "last"],
        rows=[[run.label, *_summary(points)] for _, run, points in shown],
    )


def _by_source(runs: Sequence[DashboardRun]) -> Figure:
    """The held-out loss of each source of the mixtures; runs keep their colours."""
    shown = [
        (n, run, source, points)
        for n, run in enumerate(runs)
        for source, points in run.source_losses.items()
        if points
    ]
    traces = [
        _line(n, run, points, True)
        | {
            "name": f"{run.label}, {source}",
            "marker": {"size": 6, "symbol": _SYMBOLS[k % len(_SYMBOLS)]},
        }
        for k, (n, run, source, points) in enumerate(shown)
    ]
    return Figure(
        id="source_losses",
        title="Held-out loss by source",
        says=f"Held-out loss of the {len(traces)} sources of mixtures by epoch.",
        data=traces,
        layout=_layout("epoch", "loss", len(traces)),
        head=["run", "source", "first", "least", "last"],
        rows=[[run.label, source, *_summary(points)] for _, run, source, points in shown],
    )


def _summary(points: Sequence[Point]) -> list[str]:
    values = [point.value for point in points]
    return [f"{value:.4g}" for value in (values[0], min(values), values[-1])]


def _line(number: int, run: DashboardRun, points: Sequence[Point], marked: bool) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers" if marked else "lines",
        "name": run.label,
        "x": [_short(point.epoch) for point in points],
        "y": [_short(point.value) for point in points],
        "customdata": [point.step for point in points],
        "hovertemplate": "%{y:.4g} at step %{customdata}<extra>%{fullData.name}</extra>",
        "line": {"width": 2, **_look(number)},
        "marker": {"size": 6, "symbol": _SYMBOLS[number % len(_SYMBOLS)]},
    }


def _look(number: int) -> dict[str, str]:
    """A run's colour and dash; 28 combinations differ."""
    dash = _DASHES[number // len(COLOURS) % len(_DASHES)]
    return {"color": COLOURS[number % len(COLOURS)], "dash": dash}


def _by_rate(runs: Sequence[DashboardRun], benchmark: str) -> Figure:
    """Score by learning rate, one line per model; an untuned model is a dotted horizontal line."""
    scored = [run for run in runs if benchmark in run.scores]
    models = list(dict.fromkeys(run.spec.model.name for run in scored))
    traces: list[Trace] = []
    for number, model in enumerate(models):
        mine = [run for run in scored if run.spec.model.name == model]
        tuned = sorted((r for r in mine if r.kind == "tuned"), key=_rate)
        if tuned:
            traces.append(_rate_line(number, model, tuned, benchmark))
            traces += _base_lines(number, mine, tuned, benchmark)
    layout = _layout("learning rate", "score", len(traces), log_x=True)
    rates = sorted({_rate(run) for run in scored if run.kind == "tuned"})
    layout["xaxis"] |= {"tickvals": rates, "ticktext": [spell_rate(rate) for rate in rates]}
    return Figure(
        id=f"rate-{benchmark}",
        title=f"{benchmark}: score by learning rate",
        says=f"Score on {benchmark} by learning rate, one line per model, with 95 % intervals over "
        "questions. A dotted line is the model without fine-tuning.",
        data=traces,
        layout=layout,
        head=["run", "learning rate", "score", "95 % interval"],
        rows=[[run.label, _rate_text(run), *_score_text(run, benchmark)] for run in scored],
    )


def _rate(run: DashboardRun) -> float:
    return run.spec.train.learning_rate


def _rate_text(run: DashboardRun) -> str:
    return spell_rate(_rate(run)) if run.kind == "tuned" else run.kind


def _score_text(run: DashboardRun, benchmark: str) -> list[str]:
    score = run.scores[benchmark]
    known = score.low is not None and score.high is not None
    return [f"{score.value:.3f}", f"{score.low:.3f} to {score.high:.3f}" if known else "unknown"]


def _rate_line(number: int, model: str, runs: Sequence[DashboardRun], benchmark: str) -> Trace:
    scores = [run.scores[benchmark] for run in runs]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": model,
        "x": [_rate(run) for run in runs],
        "y": [_short(score.value) for score in scores],
        "text": [run.label for run in runs],
        "hovertemplate": "%{y:.3f} at %{x:.3g}<extra>%{text}</extra>",
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [_gap(score.high, score.value) for score in scores],
            "arrayminus": [_gap(score.value, score.low) for score in scores],
            "thickness": 1.2,
        },
        "line": {"width": 2, **_look(number)},
        "marker": {"size": 8, "symbol": _SYMBOLS[number % len(_SYMBOLS)]},
    }


def _base_lines(
    number: int, runs: Sequence[DashboardRun], tuned: Sequence[DashboardRun], benchmark: str
) -> Iterator[Trace]:
    rates = [_rate(run) for run in tuned]
    for run in (run for run in runs if run.kind != "tuned"):
        score = _short(run.scores[benchmark].value)
        yield {
            "type": "scatter",
            "mode": "lines",
            "name": f"{run.spec.model.name}, {run.kind}",
            "x": [min(rates) / 1.5, max(rates) * 1.5],
            "y": [score, score],
            "hovertemplate": f"%{{y:.3f}}<extra>{run.kind}</extra>",
            "line": {"width": 2, "color": _look(number)["color"], "dash": "dot"},
        }


def _by_epoch(runs: Sequence[DashboardRun], benchmark: str) -> Figure:
    """Scores of the weights after each epoch, if any run has more than the final ones."""
    traces: list[Trace] = []
    rows: list[list[str]] = []
    for number, run in enumerate(runs):
        found = [(e.epoch, e.scores[benchmark]) for e in run.by_epoch if benchmark in e.scores]
        if len(found) < 2:
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": run.label,
                "x": [epoch for epoch, _ in found],
                "y": [_short(score.value) for _, score in found],
                "hovertemplate": "%{y:.3f} after epoch %{x}<extra>%{fullData.name}</extra>",
                "line": {"width": 2, **_look(number)},
                "marker": {"size": 7, "symbol": _SYMBOLS[number % len(_SYMBOLS)]},
            }
        )
        rows += [[run.label, f"{epoch:g}", f"{score.value:.3f}"] for epoch, score in found]
    return Figure(
        id=f"epochs-{benchmark}",
        title=f"{benchmark}: score by epoch",
        says=f"Score on {benchmark} of the weights after each epoch.",
        data=traces,
        layout=_layout("epoch", "score", len(traces)),
        head=["run", "epoch", "score"],
        rows=rows,
    )


def _bars(
    runs: Sequence[DashboardRun],
    benchmarks: Sequence[str],
    what: Literal["mean_response_tokens", "truncated_frac"],
) -> Figure:
    """One bar per run and benchmark."""
    length = what == "mean_response_tokens"
    scored = [run for run in runs if run.scores]
    spell = "{:,.0f}" if length else "{:.1%}"
    traces: list[Trace] = []
    rows: list[list[str]] = []
    for number, name in enumerate(benchmarks):
        known = [
            (run, value)
            for run in scored
            if name in run.scores and (value := getattr(run.scores[name], what)) is not None
        ]
        if known:
            values = [_short(value) for _, value in known]
            traces.append(_bar(name, [run.label for run, _ in known], values, COLOURS[number % 7]))
        rows += [[run.label, name, spell.format(value)] for run, value in known]
    title = "Length of answers" if length else "Answers cut off by length"
    unit = "tokens, mean" if length else "share cut off"
    layout = _bar_layout(unit, len(scored), len(traces))
    if not length:
        layout["xaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    return Figure(
        id=what,
        title=title,
        says=f"{title} by run and benchmark, {unit}. An answer that was cut off is wrong.",
        data=traces,
        layout=layout,
        head=["run", "benchmark", unit],
        rows=rows,
    )


def _time(runs: Sequence[DashboardRun]) -> Figure:
    """Hours by phase and run; lost hours are a bar of their own."""
    timed = [run for run in runs if run.usage]
    names = [run.label for run in timed]
    traces: list[Trace] = []
    for phase, colour in PHASE_COLOURS.items():
        useful = [_hours(run, phase) for run in timed]
        if any(useful):
            traces.append(_bar(phase, names, useful, colour))
    lost = [_short(sum(each.lost_s for each in run.usage) / 3600) for run in timed]
    if any(lost):
        traces.append(_bar("lost", names, lost, _LOST))
        traces[-1]["marker"]["pattern"] = {"shape": "/"}
    return Figure(
        id="time",
        title="Hours by phase",
        says="Wall time of each run by phase, in hours. Lost is work that no later attempt could "
        "resume from, and all work of a run that ended without a result.",
        data=traces,
        layout=_bar_layout("hours", len(timed), 1) | {"barmode": "stack"},
    )


def _hours(run: DashboardRun, phase: str) -> float:
    seconds = (each.wall_s - each.lost_s for each in run.usage if each.phase == phase)
    return _short(sum(seconds) / 3600)


def _bar(name: str, labels: Iterable[str], values: Iterable[float], colour: str) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": list(labels),
        "x": list(values),
        "hovertemplate": "%{x:.4g}<extra>%{y}, %{fullData.name}</extra>",
        "marker": {"color": colour},
    }


def _layout(
    x: str, y: str, count: int, *, log_x: bool = False, log_y: bool = False
) -> dict[str, Any]:
    return {
        "height": 380,
        "xaxis": {"title": {"text": x}, "type": "log" if log_x else "linear"},
        "yaxis": {"title": {"text": y}, "type": "log" if log_y else "linear"},
        "showlegend": count <= _MANY,
        "hovermode": "closest",
    }


def _bar_layout(x: str, count: int, groups: int) -> dict[str, Any]:
    return {
        "height": 150 + count * (10 + 16 * max(1, groups)),
        "xaxis": {"title": {"text": x}, "type": "linear"},
        "yaxis": {"type": "category", "autorange": "reversed", "automargin": True},
        "barmode": "group",
        "showlegend": True,
        "hovermode": "closest",
    }


def _gap(high: float | None, low: float | None) -> float:
    return 0.0 if high is None or low is None else _short(high - low)


def _short(value: float) -> float:
    """Round to five digits, which keeps a page of 50 runs small."""
    return float(f"{value:.5g}")
