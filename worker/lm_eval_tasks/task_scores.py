"""The numbers and files of lm-eval's own tasks, from what lm-eval returns.

lm-eval names a number `metric,filter`. Metrics of a task's first filter are reported under the
metric's name alone, the others under lm-eval's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from jobspec.errors import BenchmarkError
from jobspec.records.evaluation import AskedQuestion, Generation, QuestionScore, SampleScore
from jobspec.results import confidence

# Entries that lm-eval lists with a task's metrics although they are none.
_BESIDE = ("name", "alias", "sample_len", "sample_count")


def main_metric(numbers: Mapping[str, Any]) -> str:
    """lm-eval's name of a task's first number: `exact_match,strict-match`."""
    found = next(_metrics(numbers), None)
    if found is None:
        raise BenchmarkError(
            f"lm-eval reports no number for `{numbers.get('name')}`",
            hint="its task file lists no metric that can be averaged",
        )
    return found


def reported_metrics(numbers: Mapping[str, Any]) -> dict[str, float | None]:
    """Every number of a task, the main one first, each with its standard error."""
    main = main_metric(numbers)
    _, _, first = main.partition(",")
    name, error = main.partition(",")[0], _stderr(numbers, main)
    reported: dict[str, float | None] = {name: float(numbers[main]), "stderr": error}
    for key in _metrics(numbers):
        metric, _, filtered = key.partition(",")
        if key == main:
            continue
        suffix = "" if filtered == first else f",{filtered}"
        reported[f"{metric}{suffix}"] = float(numbers[key])
        reported[f"{metric}_stderr{suffix}"] = _stderr(numbers, key)
    return reported


def is_higher_better(higher: Mapping[str, Any] | None, metric: str) -> bool:
    """Whether a higher value of lm-eval's `metric,filter` is better; it is if lm-eval is silent."""
    return (higher or {}).get(metric.partition(",")[0]) is not False


def intervals(
    numbers: Mapping[str, Any], metric: str, questions: int
) -> dict[str, tuple[float | None, float | None]]:
    """The 95 % intervals of a task's number: there is none over other samples."""
    bounds = confidence.over_questions(
        float(numbers[metric]), _stderr(numbers, metric), questions, 1
    )
    return {"questions": bounds, "samples": (None, None)}


def values_by_question(logged: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """For each document, the metrics that have a number for a single document."""
    found: dict[int, dict[str, float]] = {}
    for entry in logged:
        values = found.setdefault(entry["doc_id"], {})
        for metric in entry["metrics"]:
            value = entry[metric]
            if isinstance(value, bool | int | float) or type(value).__module__ == "numpy":
                number = _number(value)
                if number is not None:
                    values[f"{metric},{entry['filter']}"] = number
    return found


def answers_by_question(logged: Iterable[Mapping[str, Any]], metric: str) -> dict[int, str | None]:
    """For each document, what the filter of a metric read from the response."""
    _, _, wanted = metric.partition(",")
    return {
        entry["doc_id"]: _spell(entry["filtered_resps"])
        for entry in logged
        if entry["filter"] == wanted
    }


def score_question(
    question: AskedQuestion,
    samples: Sequence[SampleScore],
    values: Mapping[str, float],
    *,
    metric: str,
    higher_is_better: bool,
) -> QuestionScore:
    """A question's row of `scores.jsonl`; its samples are right if the task's metric says so."""
    value = values.get(metric)
    right = value is not None and (value >= 1 if higher_is_better else value <= 0)
    return QuestionScore(
        id=question.id,
        answer=question.answer,
        samples=tuple(msgspec.structs.replace(each, right=right) for each in samples),
        metrics=dict(values),
    )


def shares(samples: Sequence[SampleScore]) -> dict[str, float | None]:
    """What is reported of the samples of every benchmark; nothing where none were generated."""
    if not samples:
        return {}
    count = len(samples)
    return {
        "truncated_frac": sum(sample.truncated for sample in samples) / count,
        "unclosed_think_frac": sum(sample.unclosed for sample in samples) / count,
        "mean_response_tokens": sum(sample.tokens for sample in samples) / count,
    }


def likelihoods_as_text(question: str, texts: Sequence[tuple[str, float]]) -> Generation:
    """A question's likelihoods as a sample that people can read; its tokens are not counted."""
    lines = [f"{logprob:10.3f}  {text.strip()}" for text, logprob in texts]
    return Generation(
        question=question, sample=0, seed=0, text="\n".join(lines), tokens=0, finish="stop"
    )


def _metrics(numbers: Mapping[str, Any]) -> Iterator[str]:
    for key, value in numbers.items():
        name = key.partition(",")[0]
        if key not in _BESIDE and not name.endswith("_stderr") and _number(value) is not None:
            yield key


def _stderr(numbers: Mapping[str, Any], metric: str) -> float | None:
    name, _, filtered = metric.partition(",")
    return _number(numbers.get(f"{name}_stderr,{filtered}"))


def _number(value: Any) -> float | None:
    """A finite number as a float; None for anything else, such as lm-eval's `N/A`."""
    try:
        number = float(value) if not isinstance(value, str) else math.nan
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _spell(filtered: Any) -> str | None:
    """What a filter made of a response, as text; None where it says that there is no answer."""
    while isinstance(filtered, list | tuple) and len(filtered) == 1:
        filtered = filtered[0]
    text = filtered if isinstance(filtered, str) else None if filtered is None else repr(filtered)
    return None if text in (None, "", "[invalid]") else text
