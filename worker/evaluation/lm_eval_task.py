"""Our benchmarks as lm-eval tasks.

lm-eval's `repeats` asks each question `k` times. A filter grades all samples of a task in one call,
and lm-eval aggregates them with the metrics of `worker.evaluation.scoring`. lm-eval passes
no stop strings to the engine: its tasks stop at "Question:" or "Problem:", which often occur inside
a think block. The engine gets them with each chunk (`ResponseRules`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import datasets
import msgspec
from lm_eval.api.filter import Filter
from lm_eval.api.task import ConfigurableTask

from jobspec.benchmarks.benchmark import Benchmark, Question, StockProtocol
from jobspec.benchmarks.protocol import refuse_unknown_protocol
from jobspec.benchmarks.question_file import QuestionSet
from jobspec.records.evaluation import Generation, QuestionScore
from jobspec.results.benchmark_scores import Metric

VERSION = 1
FILTER = "all_samples"

JudgeTask = Callable[[Mapping[str, Sequence[Generation]]], Sequence[QuestionScore]]


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the spec that a task depends on."""

    k: int
    protocol: str
    num_fewshot: int | None
    generation_kwargs: dict[str, Any]

    def shots(self, benchmark: Benchmark) -> int:
        """How many worked examples are shown: the spec's number, or else the protocol's."""
        if self.num_fewshot is not None:
            return self.num_fewshot
        stock = self.stock(benchmark)
        return 0 if stock is None else stock.shots

    def stops(self, benchmark: Benchmark) -> tuple[str, ...]:
        """The strings at which the stock protocol cuts an answer, after thinking."""
        stock = self.stock(benchmark)
        return () if stock is None else stock.stops

    def stock(self, benchmark: Benchmark) -> StockProtocol | None:
        """The benchmark's stock protocol where the spec asks for it."""
        return benchmark.stock if self.protocol == "stock" else None


def make_task(
    questions: QuestionSet, settings: TaskSettings, metrics: Mapping[str, Metric], judge: JudgeTask
) -> ConfigurableTask:
    """An lm-eval task that asks every question `k` times and reports `metrics`.

    Args:
        judge: takes the samples by question id and returns the scores in the same order.

    Raises:
        SpecError: the spec wants a protocol or worked examples that the benchmark does not have.
    """
    benchmark = questions.benchmark
    shots = settings.shots(benchmark)
    refuse_unknown_protocol(benchmark, settings.protocol, settings.num_fewshot)
    return ConfigurableTask(
        config={
            "task": benchmark.name,
            "custom_dataset": partial(_dataset, questions, settings),
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": _text,
            "doc_to_target": _target,
            "num_fewshot": shots,
            "fewshot_config": _examples(benchmark, settings) if shots else None,
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
    """Grades all samples of a task in one call, and returns one score for each question."""

    def __init__(self, judge: JudgeTask) -> None:
        super().__init__()
        self._judge = judge

    def apply(self, resps: Any, docs: list[dict[str, Any]]) -> list[QuestionScore]:
        pairs = zip(docs, resps, strict=True)
        drawn = {doc["id"]: [row for row in rows if row is not None] for doc, rows in pairs}
        return list(self._judge(drawn))


def _process_results(
    names: Sequence[str], doc: dict[str, Any], results: list[QuestionScore]
) -> dict[str, QuestionScore]:
    """Pass the question's score to every metric; each metric aggregates over the questions."""
    (score,) = results
    assert score.id == doc["id"]
    return dict.fromkeys(names, score)


def _dataset(
    questions: QuestionSet, settings: TaskSettings, **_: Any
) -> dict[str, datasets.Dataset]:
    benchmark, stock = questions.benchmark, settings.protocol == "stock"
    rows = [
        {
            "id": question.id,
            "prompt": benchmark.ask(question, stock=stock),
            "answer": question.answer,
            "solution": question.solution or "",
            "few_shot": "",
        }
        for question in questions.questions
    ]
    return {"test": datasets.Dataset.from_list(rows)}


def _text(doc: Mapping[str, Any]) -> str:
    return doc["prompt"]


def _target(doc: Mapping[str, Any]) -> str:
    """What follows a question: the worked solution of an example, or else the answer alone."""
    return doc["solution"] if doc["few_shot"] else doc["answer"]


def _examples(benchmark: Benchmark, settings: TaskSettings) -> dict[str, Any]:
    """The worked examples as lm-eval has them, asked as the questions are."""
    assert benchmark.stock is not None and benchmark.stock.examples is not None
    module, _, function = benchmark.stock.examples.partition(":")
    stock = settings.protocol == "stock"

    def examples() -> list[dict[str, Any]]:
        made = getattr(import_module(module), function)()
        return [{**doc, "prompt": _ask_example(benchmark, doc, stock=stock)} for doc in made]

    return {"sampler": "first_n", "samples": examples}


def _ask_example(benchmark: Benchmark, doc: Mapping[str, Any], *, stock: bool) -> str:
    return benchmark.ask(Question(id="", problem=doc["problem"], answer=""), stock=stock)
