"""lm-eval's own tasks, run unchanged on lm-eval's own model classes.

The task decides about prompts, worked examples, generation settings and main metric; only the
spec's `eval.overrides` for that task changes them. The benchmark directory may hold further task
files (`<task>.yaml`).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import BenchmarkError
from jobspec.records.reports import ScoringProtocol
from jobspec.spec.benchmark_settings import sampling
from jobspec.spec.schema import EvalSpec
from worker.evaluation import lm_eval_engines
from worker.evaluation.scoring import BenchmarkResult
from worker.imports.quiet import quiet
from worker.inference.engine import EngineChoice

# Entries that lm-eval lists with a task's metrics although they are none.
_BESIDE = ("name", "alias", "sample_len")


class NativeTasks:
    """lm-eval tasks by name. They are loaded before anything is generated.

    Raises:
        BenchmarkError: a task is unknown, or its data can't be reached from here.
    """

    def __init__(
        self, names: Sequence[str], evaluation: EvalSpec, include: Sequence[Path] = ()
    ) -> None:
        from lm_eval.tasks import TaskManager

        self.names = names
        self.evaluation = evaluation
        paths: list[str | Path] = [path for path in include if any(path.glob("*.yaml"))]
        self._manager: Any = TaskManager(include_path=paths or None) if names else None
        for name in names:
            self._load(name)

    def run(
        self, choice: EngineChoice, tokenizer: Any, report: lm_eval_engines.Report
    ) -> list[BenchmarkResult]:
        """Score the model on every task, one after the other, reporting requests as they end."""
        if not self.names:
            return []
        chat = self.evaluation.protocol == "published" and bool(tokenizer.chat_template)
        with lm_eval_engines.loaded(choice, self.evaluation, report) as model:
            return [self._score(name, model, choice, chat) for name in self.names]

    def _load(self, name: str) -> None:
        try:
            self._manager.load([name])
        except KeyError as error:
            raise BenchmarkError(
                f"`{name}` is neither a file of the benchmark directory nor an lm-eval task",
                place="$.eval.benchmarks",
                hint="`lm_eval ls tasks` lists lm-eval's",
            ) from error
        except (OSError, ValueError) as error:
            raise BenchmarkError(
                f"the data of lm-eval's `{name}` can't be loaded: {_first_line(error)}",
                place="$.eval.benchmarks",
                hint="run `jobspec fetch SPEC…` on a node with network",
            ) from error

    def _score(self, name: str, model: Any, choice: EngineChoice, chat: bool) -> BenchmarkResult:
        import lm_eval

        settings = sampling(self.evaluation, name)
        simple_evaluate: Any = lm_eval.simple_evaluate
        with quiet():
            found = simple_evaluate(
                model=model,
                tasks=[name],
                task_manager=self._manager,
                num_fewshot=settings["num_fewshot"],
                limit=settings["limit"],
                gen_kwargs=self._overridden(name),
                apply_chat_template=chat,
                bootstrap_iters=1000,
                log_samples=False,
                random_seed=self.evaluation.seed,
            )
        numbers = found["results"][name]
        metric, value = _main_metric(numbers)
        return BenchmarkResult(
            benchmark=name,
            metrics={metric.split(",")[0]: value, "stderr": _stderr(numbers, metric)},
            intervals={},
            protocol=choice.add_facts(self._protocol(name, found, metric, chat)),
        )

    def _overridden(self, name: str) -> dict[str, Any] | None:
        """The generation settings that the spec overrides for this task."""
        override = self.evaluation.overrides.get(name)
        if override is None:
            return None
        fields = msgspec.structs.asdict(override)
        given = {
            key: value
            for key, value in fields.items()
            if value is not None and key not in ("avg_k", "num_fewshot", "limit")
        }
        return {"do_sample": given["temperature"] > 0, **given} if "temperature" in given else given

    def _protocol(
        self, name: str, found: Mapping[str, Any], metric: str, chat: bool
    ) -> ScoringProtocol:
        config = found["configs"].get(name, {})
        return ScoringProtocol(
            protocol="lm-eval",
            task_version=found["versions"].get(name),
            shots=found["n-shot"].get(name),
            chat_template=chat,
            generation_kwargs=config.get("generation_kwargs"),
            questions=found["n-samples"].get(name),
            lm_eval_version=importlib.metadata.version("lm_eval"),
            metric=metric,
        )


def _main_metric(numbers: Mapping[str, Any]) -> tuple[str, float]:
    """The first metric that the task lists, with its filter: `exact_match,strict-match`."""
    for key, value in numbers.items():
        name = key.split(",")[0]
        if key in _BESIDE or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        return key, float(value)
    raise BenchmarkError("lm-eval reports no number for this task", place=str(numbers.get("name")))


def _stderr(numbers: Mapping[str, Any], metric: str) -> float | None:
    name, _, filtered = metric.partition(",")
    value = numbers.get(f"{name}_stderr,{filtered}")
    return float(value) if isinstance(value, int | float) else None


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
