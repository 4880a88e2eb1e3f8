"""Published scores, the specs that measure them again, and whether ours agree.

The error that counts is that of sampling: both sides answered the same questions. The error over
questions, ±11 to 13 points on 30 of them, would let anything pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from jobspec.benchmarks import protocol
from jobspec.errors import SpecError
from jobspec.queue.entries import Job
from jobspec.records import evaluation
from jobspec.results import confidence
from jobspec.spec import schema as specs
from jobspec.spec.builder import slug
from jobspec.spec.schema import BenchmarkOverrides, EvalSpec, JobSpec, ModelSpec, Spec

FILE = Path(__file__).parents[1] / "benchmarks" / "published.json"
_OWN_K = 4  # for a score whose k is not stated: enough of our own to see the error


class Published(Spec, frozen=True, kw_only=True):
    """One score, in percent: the mean of `k` samples a question, over `runs` such runs.

    `k` null: not stated, and taken as 1, which gives the widest error.
    """

    score: Annotated[float, Meta(ge=0, le=100)]
    k: Annotated[int, Meta(ge=1)] | None
    questions: Annotated[int, Meta(ge=1)]
    max_gen_toks: Annotated[int, Meta(ge=1)]
    runs: Annotated[int, Meta(ge=1)] = 1


class Entry(Spec, frozen=True, kw_only=True):
    """What one source says of one model in one variant. `eval` are the settings it was made with,
    spelled as in a spec."""

    model: str
    variant: str
    by: str
    source: str
    eval: dict[str, Any]
    scores: dict[str, Published]

    @property
    def name(self) -> str:
        return f"{self.model}:{self.variant}"


class _File(Spec, frozen=True, kw_only=True):
    schema: int = 1
    entries: list[Entry]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One model and benchmark in `calibrate --json`; scores, differences, errors in percent.

    `within`: the difference lies within 1.96 × √(`ours_error`² + `published_error`²); null where
    an error is not known. `differs`: settings of ours that are not those published.
    """

    model: str
    variant: str
    benchmark: str
    job: str
    ours: float
    published: float
    difference: float
    ours_error: float | None
    published_error: float | None
    within: bool | None
    differs: list[str]
    source: str


def load(path: Path = FILE) -> list[Entry]:
    """The published scores in a file of the form of `published.json`. Raises SpecError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).entries
    except OSError as error:
        raise SpecError(f"can't be read: {error.strerror}", file=path) from error
    except msgspec.MsgspecError as error:
        raise SpecError(str(error), file=path, hint=f"{FILE} shows the form") from error


def chosen(entries: Sequence[Entry], names: Sequence[str]) -> list[Entry]:
    """The entries of models by name, or by `model:variant`.

    A name alone means what the model's own publisher says. Raises SpecError for an unknown one.
    """
    found: list[Entry] = []
    for name in names:
        mine = [entry for entry in entries if entry.name == name]
        if not mine:
            of_model = [entry for entry in entries if entry.model == name]
            mine = [entry for entry in of_model if entry.by == of_model[0].by]
        if not mine:
            known = ", ".join(entry.name for entry in entries)
            raise SpecError(f"no published scores of `{name}`", hint=f"there are {known}")
        found += [entry for entry in mine if entry not in found]
    return found


def spec_of(entry: Entry, model: str | None = None) -> JobSpec:
    """The spec that measures an entry again: its model untouched, its settings.

    Args:
        model: the directory that holds the model, where that is not its hub name's.
    """
    overrides = {
        name: BenchmarkOverrides(avg_k=score.k or _OWN_K, max_gen_toks=score.max_gen_toks)
        for name, score in entry.scores.items()
    }
    fields = {"benchmarks": list(entry.scores), "overrides": overrides, **entry.eval}
    made = JobSpec(
        name=f"calibrate-{slug(entry.model)}-{entry.variant}"[:100],
        model=ModelSpec(name=model or entry.model),
        train=None,
        eval=msgspec.convert(msgspec.to_builtins(fields), EvalSpec),
    )
    return specs.decode(specs.canonical(made))


def rows(entry: Entry, job: Job) -> list[Row]:
    """Ours beside theirs, a row a benchmark. Raises BenchmarkError where scores are missing."""
    directories = evaluation.benchmark_dirs(evaluation.evaluated_attempt(job).eval)
    return [_row(entry, name, job, directories[name]) for name in entry.scores]


def _row(entry: Entry, name: str, job: Job, directory: Path) -> Row:
    theirs = entry.scores[name]
    found = evaluation.outcomes(evaluation.read_scores(directory))
    ours = 100 * sum(sum(mine) / len(mine) for mine in found.values()) / len(found)
    ours_error, their_error = _errors(list(found.values()), theirs)
    difference = ours - theirs.score
    return Row(
        model=entry.model,
        variant=entry.variant,
        benchmark=name,
        job=job.id,
        ours=ours,
        published=theirs.score,
        difference=difference,
        ours_error=ours_error,
        published_error=their_error,
        within=_within(difference, ours_error, their_error),
        differs=_differing(entry, theirs, evaluation.read_plan(directory).protocol),
        source=entry.source,
    )


def _errors(
    found: Sequence[Sequence[bool]], theirs: Published
) -> tuple[float | None, float | None]:
    """Sampling errors of ours and of theirs, in percent points.

    How hard each question was for them is not published; it is taken to be as ours show it.
    """
    if any(len(mine) < 2 for mine in found):
        return None, None
    means = [(sum(mine) / len(mine), len(mine)) for mine in found]
    draws = (theirs.k or 1) * theirs.runs
    ours = math.fsum(p * (1 - p) / (k - 1) for p, k in means)
    their = math.fsum(p * (1 - p) * k / (k - 1) / draws for p, k in means)
    return 100 * math.sqrt(ours) / len(means), 100 * math.sqrt(their) / len(means)


def _within(difference: float, ours: float | None, theirs: float | None) -> bool | None:
    if ours is None or theirs is None:
        return None
    low, high = confidence.normal(difference, math.hypot(ours, theirs))
    rounding = 0.05  # published to one decimal
    return low - rounding <= 0 <= high + rounding


def _differing(entry: Entry, theirs: Published, used: Mapping[str, Any]) -> list[str]:
    fields = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "chat_template_kwargs")
    wanted = {field: entry.eval.get(field) for field in fields}
    wanted["chat_template_kwargs"] = wanted["chat_template_kwargs"] or {}
    wanted |= {"max_gen_toks": theirs.max_gen_toks, "questions": theirs.questions, "shots": 0}
    return [
        f"{field} {protocol.spell(used.get(field))} instead of {protocol.spell(value)}"
        for field, value in wanted.items()
        if used.get(field) != value
    ]
