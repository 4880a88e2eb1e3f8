"""Our benchmarks as lm-eval tasks: what is asked, how often, and which numbers come of it.

A question is asked `k` times by lm-eval's own `repeats`; a filter judges all samples of a task at
once, and lm-eval's aggregations are the metrics of `worker.evaluation.scoring`. No stop string
is given to the
engine: stock tasks stop at "Question:" or "Problem:", which ends many a think block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import datasets
import msgspec
from lm_eval.api.filter import Filter
from lm_eval.api.task import ConfigurableTask

from jobspec.benchmarks import registry
from jobspec.benchmarks.registry import Benchmark
from jobspec.errors import SpecError
from jobspec.records.evaluation import Generation, QuestionScore
from worker.evaluation.scoring import Metric

VERSION = 1
FILTER = "all_samples"
STOCK_SHOTS = {"math": 4, "aime": 0}
_STOCK_STOPS = {
    "math": ("Problem:",),
    "aime": ("Question:", "</s>", "<|im_end|>", "<|eot_id|>"),
}

JudgeTask = Callable[[Mapping[str, Sequence[Generation]]], Sequence[QuestionScore]]


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What of the spec shapes a task."""

    k: int
    protocol: str
    num_fewshot: int | None
    generation_kwargs: dict[str, Any]

    def shots(self, form: str) -> int:
        """Worked examples shown: the spec's number, else the protocol's."""
        if self.num_fewshot is not None:
            return self.num_fewshot
        return STOCK_SHOTS[form] if self.protocol == "stock" else 0

    def stops(self, form: str) -> tuple[str, ...]:
        """Strings the stock protocol cuts an answer at, once thinking is over."""
        return _STOCK_STOPS[form] if self.protocol == "stock" else ()


def make_task(
    benchmark: Benchmark, settings: TaskSettings, metrics: Mapping[str, Metric], judge: JudgeTask
) -> ConfigurableTask:
    """An lm-eval task that asks every question `k` times and reports `metrics`.

    Args:
        judge: given the samples by question id, returns the questions' scores in the same order.
    """
    shots = settings.shots(benchmark.form)
    if shots > 0 and benchmark.form == "aime":
        raise SpecError(
            f"`{benchmark.name}` has no worked examples to show",
            place="$.eval.num_fewshot",
            hint="set it to null or 0 for the AIME benchmarks",
        )
    return ConfigurableTask(
        config={
            "task": benchmark.name,
            "custom_dataset": partial(_dataset, benchmark),
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": _stock_text(benchmark.form) if settings.protocol == "stock" else _text,
            "doc_to_target": _target,
            "num_fewshot": shots,
            "fewshot_config": {"sampler": "first_n", "samples": _examples} if shots else None,
            "repeats": settings.k,
            "generation_kwargs": {"until": [], **settings.generation_kwargs},
            "filter_list": [
                {"name": FILTER, "filter": [{"function": partial(_JudgeFilter, judge)}]}
            ],
            "process_results": partial(_process_results, tuple(metrics)),
            "metric_list": [
                {"metric": name, "aggregation": metric, "higher_is_better": True}
                for name, metric in metrics.items()
            ],
            "metadata": {"version": VERSION},
        }
    )


class _JudgeFilter(Filter):
    """Turns each question's samples into its score, all questions of a task in one call."""

    def __init__(self, judge: JudgeTask) -> None:
        super().__init__()
        self._judge = judge

    def apply(self, resps: Any, docs: list[dict[str, Any]]) -> list[QuestionScore]:
        samples = {doc["id"]: rows for doc, rows in zip(docs, resps, strict=True)}
        return list(self._judge(samples))


def _process_results(
    names: Sequence[str], doc: dict[str, Any], results: list[QuestionScore]
) -> dict[str, QuestionScore]:
    """Hand the question's score to every metric; each aggregates over questions by itself."""
    (score,) = results
    assert score.id == doc["id"]
    return dict.fromkeys(names, score)


def _dataset(benchmark: Benchmark, **_: Any) -> dict[str, datasets.Dataset]:
    rows = [
        {
            "id": question.id,
            "problem": question.problem,
            "answer": question.answer,
            "solution": question.solution or "",
            "few_shot": "",
        }
        for question in benchmark.questions
    ]
    return {"test": datasets.Dataset.from_list(rows)}


def _text(doc: Mapping[str, Any]) -> str:
    return registry.prompt(doc["problem"])


def _target(doc: Mapping[str, Any]) -> str:
    """What stands after a question: the worked solution of an example, else the bare answer."""
    return doc["solution"] if doc["few_shot"] else doc["answer"]


def _stock_text(form: str) -> Callable[[Mapping[str, Any]], str]:
    """The user turn as lm-eval 0.4.13 words it."""
    if form == "aime":
        return lambda doc: f"Question: {doc['problem']}\nAnswer:"
    return lambda doc: f"Problem:\n{doc['problem']}\n\nSolution:"


def _examples() -> list[dict[str, Any]]:
    """The four worked examples of Minerva, as lm-eval has them."""
    from lm_eval.tasks.minerva_math.utils import list_fewshot_samples

    return list_fewshot_samples()
