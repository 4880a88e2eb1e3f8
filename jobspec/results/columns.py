"""The columns of a table of runs and their texts: the same in the terminal, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from jobspec.monitoring import cost as costs
from jobspec.monitoring import reasons
from jobspec.monitoring.cost import Cost
from jobspec.records.base import State
from jobspec.results import settings, table
from jobspec.results.difference import Difference
from jobspec.results.significance import spell_probability
from jobspec.results.table import ResultRow, Score, short

TRUNCATED = 0.1  # if more than this fraction of answers is cut off, a score means little
CUT_OFF = f"more than {TRUNCATED:.0%} of the answers were cut off by length"
NOT_MEASURED = "–"
# The settings that every table shows, whether they differ or not.
ALWAYS = ("model.name", "train.learning_rate")

Kind = Literal["model", "state", "rate", "setting", "loss", "held-out", "score", "cost", "job"]


@dataclass(frozen=True)
class RunColumn:
    """One column of a table of runs.

    Attributes:
        text: what a row has in it; of a score, without its interval and marks.
        name: the setting or benchmark.
        right: whether its texts are numbers, which are aligned at their ends.
    """

    title: str
    kind: Kind
    text: Callable[[ResultRow], str]
    name: str = ""
    right: bool = False


def columns(rows: Sequence[ResultRow]) -> list[RunColumn]:
    """The columns for these runs: what they are, what differs, their losses, their scores."""
    models = settings.short_paths(row.model for row in rows)
    found = [
        RunColumn("model", "model", lambda row: models[row.model]),
        RunColumn("state", "state", state),
        RunColumn("lr", "rate", rate),
    ]
    differing = [name for name in settings.differing(rows) if name not in ALWAYS]
    found += [_setting(name, differing, rows) for name in differing]
    found += [
        RunColumn("loss", "loss", lambda row: _loss(row.loss), right=True),
        RunColumn("held-out", "held-out", lambda row: _loss(row.eval_loss), right=True),
    ]
    found += [_score(name, rows) for name in table.benchmarks(rows)]
    found += _costs()
    found.append(RunColumn("job", "job", lambda row: row.job))
    return [each for each in found if any(map(each.text, rows))]


def state(row: ResultRow) -> str:
    """A run's state; of a running one, the phase and how far it is."""
    if row.state != State.RUNNING or not row.phase:
        return row.state
    progress = "" if row.progress is None else f" {int(row.progress * 100 + 1e-9)} %"
    return f"{row.phase}{progress}"


def rate(row: ResultRow) -> str:
    """The learning rate, or what an untrained model is."""
    if row.learning_rate is not None:
        return settings.spell(row.learning_rate)
    return row.kind if row.kind != "tuned" else ""


def spell_score(score: Score, around: str = " {}") -> str:
    """A score and its 95 % interval over questions, or else over samples, formatted by `around`.

    With a stop rule, the number of samples follows, which can differ between jobs: `@12`.
    """
    ends = score.interval
    # Two digits are enough: the ends of the interval are not more precise.
    interval = "" if ends is None else around.format(f"[{ends[0]:.2f}, {ends[1]:.2f}]")
    return f"{score.value:.3f}{interval}" + (f" @{score.k}" if score.k_at_most else "")


def is_cut_off(score: Score) -> bool:
    return score.truncated_frac is not None and score.truncated_frac > TRUNCATED


def warnings(row: ResultRow) -> list[str]:
    """What is wrong with a run, if anything."""
    found = [f"{row.job}: {row.why}"] if row.why and not row.scores else []
    found += [reasons.loss_rise(row.loss_rise)] if row.loss_rise else []
    return found + [f"{name} has no score: {why}" for name, why in row.failed.items()]


def notes(row: ResultRow) -> list[str]:
    """What a stop rule saved, the GPU time that was lost, the differences from another job."""
    found = [f"GPU-hours: {each}" for each in costs.lost(row.cost)] if row.cost is not None else []
    found += [_saving(name, score) for name, score in row.scores.items() if score.k_at_most]
    return found + [_difference(name, each) for name, each in row.against.items()]


def legend(rows: Sequence[ResultRow]) -> list[str]:
    """What has to be known to read these rows' scores."""
    scores = [(name, score) for row in rows for name, score in row.scores.items()]
    low = dict.fromkeys(name for name, score in scores if not score.higher_is_better)
    found = [f"lower is better: {', '.join(low)}"] if low else []
    found += [f"! {CUT_OFF}"] if any(is_cut_off(score) for _, score in scores) else []
    return found + cost_legend(rows)


def cost_legend(rows: Sequence[ResultRow]) -> list[str]:
    """What has to be known to read the columns of costs."""
    known = [row.cost for row in rows if row.cost is not None]
    if not known:
        return []
    of = "energy is that of the job's GPUs, or else of the node's CPUs"
    partly = "; ≥ measured for a part of the time"
    partial = any(each.joules is not None and not each.measured_whole for each in known)
    return [f"{of}; {NOT_MEASURED} not measured{partly if partial else ''}"]


def _setting(name: str, differing: Sequence[str], rows: Sequence[ResultRow]) -> RunColumn:
    texts = settings.short_paths(settings.setting(row, name) for row in rows)
    numeric = all(not isinstance(value, str | bool) for value in texts if value is not None)
    return RunColumn(
        title=settings.title(name, differing),
        kind="setting",
        text=lambda row: texts[settings.setting(row, name)],
        name=name,
        right=numeric,
    )


def _costs() -> list[RunColumn]:
    """Hours, energy and CO2 of all attempts. Rows without a cost have no text."""
    return [
        _cost("GPU-h", lambda row, cost: costs.figure(cost.gpu_h)),
        _cost("lost", lambda row, cost: costs.figure(cost.lost_h)),
        _cost("kWh", lambda row, cost: _kwh(cost)),
        _cost("J/token", lambda row, cost: _if_ran(cost.j_per_token, row, "train")),
        _cost("J/sample", lambda row, cost: _if_ran(cost.j_per_sample, row, "eval")),
        _cost("g CO2", lambda row, cost: "" if cost.co2_g is None else costs.figure(cost.co2_g)),
    ]


def _cost(title: str, text: Callable[[ResultRow, Cost], str]) -> RunColumn:
    def of_row(row: ResultRow) -> str:
        return text(row, row.cost) if row.cost is not None else ""

    return RunColumn(title, "cost", of_row, right=True)


def _kwh(cost: Cost) -> str:
    joules = cost.joules
    if joules is None:
        return NOT_MEASURED if cost.ran_s else ""
    kwh = costs.figure(joules / costs.JOULES_PER_KWH)
    return kwh if cost.measured_whole else f"≥ {kwh}"


def _if_ran(joules: float | None, row: ResultRow, group: str) -> str:
    """Joules for each token or sample; nothing for a job that has none."""
    if joules is None:
        return NOT_MEASURED if group in row.groups else ""
    return costs.figure(joules)


def _score(name: str, rows: Sequence[ResultRow]) -> RunColumn:
    def text(row: ResultRow) -> str:
        return spell_score(row.scores[name], "") if name in row.scores else ""

    return RunColumn(_score_title(name, rows), "score", text, name, right=True)


def _score_title(name: str, rows: Sequence[ResultRow]) -> str:
    """The benchmark, with its metric if all rows agree and it is not the usual one."""
    found = [row.scores[name] for row in rows if name in row.scores]
    metrics = {"avg_at_k" if score.k_at_most else score.metric for score in found}
    metric = metrics.pop() if len(metrics) == 1 else ""
    shown = "" if metric == "math_verify" else metric.replace("avg_at_", "avg@")
    return f"{short(name)} {shown}".rstrip()


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


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
