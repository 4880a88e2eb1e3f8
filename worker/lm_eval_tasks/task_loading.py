"""lm-eval's own tasks: found by name, loaded with their data, and set as the spec asks.

The benchmark directory may hold further task files (`<task>.yaml`). A name may stand for a task,
for a group of tasks with a score of its own, or for a tag or a group that only lists tasks.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from jobspec.errors import BenchmarkError, JobspecError, SpecError
from jobspec.records.answers import TaskFacts
from jobspec.spec.benchmark_settings import sampling
from jobspec.spec.schema import EvalSpec
from worker.inference.requests import Sampling
from worker.lm_eval_tasks import code_eval, nltk_data, sandbox

FEWSHOT_SEED = 1234  # lm-eval's own default
_DEFAULT_TOKENS = 256  # lm-eval's own default
_LOCAL_DATA = ("json", "csv", "parquet", "arrow", "text", "pandas")
# Fields of `overrides` that say how answers are generated.
_GENERATION = ("max_gen_toks", "temperature", "top_p", "top_k", "min_p", "presence_penalty")
_UNDERSTOOD = {
    *_GENERATION,
    *("until", "do_sample", "num_beams"),
    *("max_new_tokens", "max_tokens", "max_completion_tokens"),
}


class DataMissing(BenchmarkError):  # noqa: N818 - reads as what happened
    """A task's data is not on this machine, and the hub can't be reached."""


class GenerationSettings(NamedTuple):
    """How a task's answers are generated, and the strings that end them."""

    sampling: Sampling
    stops: tuple[str, ...]


class TaskBenchmark(NamedTuple):
    """What a name of a spec stands for: lm-eval's tasks, and its groups of them, both by name."""

    name: str
    tasks: dict[str, Any]
    groups: dict[str, Any]


class TaskLibrary:
    """lm-eval's tasks and those of the benchmark directories.

    Args:
        evaluation: the settings of the spec.
        include: the benchmark directories.
    """

    def __init__(self, evaluation: EvalSpec, include: Sequence[Path] = ()) -> None:
        from lm_eval.tasks import TaskManager

        self._evaluation = evaluation
        paths: list[str | Path] = [path for path in include if any(path.glob("*.yaml"))]
        self._manager: Any = TaskManager(include_path=paths or None)
        self._owners: dict[str, str] = {}

    def load(self, name: str) -> TaskBenchmark:
        """The tasks of a name, with their data and the settings of the spec.

        Raises:
            DataMissing: data has to be downloaded first.
            BenchmarkError: the name is unknown, a package is missing, or a task can't be run.
            SpecError: the spec sets what the tasks do not use.
        """
        if name not in self._manager.task_index:
            raise BenchmarkError(
                f"`{name}` is neither a file of the benchmark directory nor an lm-eval task",
                place="$.eval.benchmarks",
                hint="`lm_eval ls tasks` lists lm-eval's",
            )
        if self.splits_sentences(name) and nltk_data.find() is None:
            raise DataMissing(
                f"lm-eval's `{name}` needs NLTK's `punkt_tab`, and it is not here",
                place="$.eval.benchmarks",
                hint="run `jobspec fetch SPEC…` on a node with network",
            )
        with code_eval.in_place(), self._errors_of(name):
            loaded = self._manager.load([name])
        benchmark = TaskBenchmark(name, loaded["tasks"], loaded["groups"])
        self._refuse_doubles(benchmark)
        for task in benchmark.tasks.values():
            _refuse_impossible(task)
            generation_settings(task)
        self._set(benchmark)
        return benchmark

    def check_packages(self, name: str) -> None:
        """Import the modules of all tasks of a name, without their data.

        Raises:
            BenchmarkError: a package is missing.
        """
        from lm_eval.tasks._yaml_loader import load_yaml

        with code_eval.in_place(), self._errors_of(name):
            for entry in self._leaves(name):
                if entry.yaml_path is not None:
                    load_yaml(entry.yaml_path, resolve_func=True)

    def splits_sentences(self, name: str) -> bool:
        """Whether the code of one of its tasks loads `punkt_tab`."""
        paths = (entry.yaml_path for entry in self._leaves(name))
        directories = {Path(path).parent for path in paths if path is not None}
        files = (file for directory in directories for file in directory.glob("*.py"))
        return any("punkt_tab" in file.read_text(errors="replace") for file in files)

    def _leaves(self, name: str) -> Iterator[Any]:
        """lm-eval's index entries of the tasks of a name, without those defined in a group."""
        entry = self._manager.task_index.get(name)
        if entry is None:
            return
        members = (entry.cfg or {}).get("task") if entry.kind.name == "GROUP" else None
        for each in sorted(entry.tags) if entry.kind.name == "TAG" else members or ():
            member = each.get("task", each.get("group")) if isinstance(each, dict) else each
            if isinstance(member, str) and member != name:
                yield from self._leaves(member)
        if entry.kind.name in ("TASK", "PY_TASK"):
            yield entry

    def _errors_of(self, name: str) -> _Errors:
        paths = {str((entry.cfg or {}).get("dataset_path")) for entry in self._leaves(name)}
        return _Errors(name, local=paths <= set(_LOCAL_DATA))

    def _refuse_doubles(self, benchmark: TaskBenchmark) -> None:
        for task in benchmark.tasks:
            owner = self._owners.setdefault(task, benchmark.name)
            if owner != benchmark.name:
                raise SpecError(
                    f"lm-eval's `{task}` is part of both `{owner}` and `{benchmark.name}`",
                    place="$.eval.benchmarks",
                    hint="name only one of them",
                )

    def _set(self, benchmark: TaskBenchmark) -> None:
        """Apply the spec's settings, as lm-eval's command line would."""
        settings = sampling(self._evaluation, benchmark.name)
        given = _given(self._evaluation, benchmark.name)
        _refuse_unused(benchmark, given, settings["num_fewshot"])
        changed = {key: value for key, value in given.items() if key in _GENERATION}
        if "temperature" in changed:
            changed["do_sample"] = changed["temperature"] > 0
        for task in benchmark.tasks.values():
            if changed and generates(task):
                task.set_config(key="generation_kwargs", value=changed, update=True)
            if task.get_config("num_fewshot") is None or settings["num_fewshot"] is not None:
                shots = settings["num_fewshot"] or 0
                if task.get_config("num_fewshot") != 0:
                    task.set_config(key="num_fewshot", value=shots)


class _Errors:
    """Turns what lm-eval raises while it loads a name's tasks into errors that say what to do."""

    def __init__(self, name: str, *, local: bool) -> None:
        self._name = name
        self._local = local

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, JobspecError) or not isinstance(error, Exception):
            return
        place, message = "$.eval.benchmarks", _first_line(error)
        missing = _missing_package(error)
        if missing is not None:
            raise BenchmarkError(
                f"lm-eval's `{self._name}` needs the Python package `{missing}`",
                place=place,
                hint=f"`pip install {missing}` here and in the workers' image",
            ) from error
        if isinstance(error, OSError | ValueError):
            what = f"the data of lm-eval's `{self._name}` can't be loaded: {message}"
            if self._local:
                raise BenchmarkError(what, place=place, hint="see its task file") from error
            hint = "run `jobspec fetch SPEC…` on a node with network"
            raise DataMissing(what, place=place, hint=hint) from error
        raise BenchmarkError(
            f"lm-eval can't load `{self._name}`: {type(error).__name__}: {message}",
            place=place,
            hint=f"lm-eval {importlib.metadata.version('lm_eval')} says so; see its task file",
        ) from error


def facts(task: Any) -> TaskFacts:
    """What a loaded task will ask for."""
    return TaskFacts(
        task=task.task_name,
        questions=len(task.eval_docs),
        max_gen_toks=generation_settings(task).sampling.max_gen_toks if generates(task) else None,
        runs_code=_runs_code(task),
    )


def generates(task: Any) -> bool:
    """Whether the model writes answers, rather than being asked how likely given ones are."""
    return (task.get_config("output_type") or task.OUTPUT_TYPE) == "generate_until"


def generation_settings(task: Any) -> GenerationSettings:
    """The task's generation settings as the engines take them.

    Raises:
        BenchmarkError: the task wants something that no engine here can do.
    """
    return read_kwargs(task.task_name, task.get_config("generation_kwargs") or {})


def read_kwargs(name: str, kwargs: Mapping[str, Any]) -> GenerationSettings:
    """lm-eval's `generation_kwargs` as the engines take them; `generation_settings` has more."""
    from lm_eval.models.utils import normalize_gen_kwargs

    unknown = set(kwargs) - _UNDERSTOOD
    unknown |= {"num_beams"} if kwargs.get("num_beams", 1) != 1 else set()
    if unknown:
        raise BenchmarkError(
            f"lm-eval's `{name}` wants the generation setting `{min(unknown)}`, "
            "which no engine here supports",
            place="$.eval.benchmarks",
            hint="leave it out of a copy of the task file in the benchmark directory",
        )
    normal: dict[str, Any] = {**normalize_gen_kwargs(dict(kwargs), _DEFAULT_TOKENS)}
    asked = Sampling(
        max_gen_toks=normal["max_gen_toks"],
        temperature=normal.get("temperature") or 0.0,
        top_p=normal.get("top_p") or 1.0,
        top_k=normal.get("top_k") or None,
        min_p=normal.get("min_p") or None,
        presence_penalty=normal.get("presence_penalty") or None,
    )
    return GenerationSettings(asked, tuple(stop for stop in normal["until"] if stop))


def _given(evaluation: EvalSpec, name: str) -> dict[str, Any]:
    """What the spec overrides for one benchmark."""
    override = evaluation.overrides.get(name)
    fields = msgspec.structs.asdict(override) if override is not None else {}
    return {key: value for key, value in fields.items() if value is not None}


def _refuse_unused(benchmark: TaskBenchmark, given: Mapping[str, Any], shots: int | None) -> None:
    """Refuse settings that would be ignored."""
    place = f"$.eval.overrides.{benchmark.name}"
    for field in {"avg_k", "stop_rule"}.intersection(given):
        raise SpecError(
            "is not used: lm-eval's tasks say themselves how many answers they need",
            place=f"{place}.{field}",
            hint="leave it out",
        )
    unused = [key for key in given if key in _GENERATION]
    if unused and not any(map(generates, benchmark.tasks.values())):
        raise SpecError(
            f"is not used: `{benchmark.name}` compares likelihoods and generates nothing",
            place=f"{place}.{unused[0]}",
            hint="leave it out",
        )
    if shots and all(task.get_config("num_fewshot") == 0 for task in benchmark.tasks.values()):
        raise SpecError(
            f"`{benchmark.name}` never shows worked examples",
            place=f"{place}.num_fewshot" if "num_fewshot" in given else "$.eval.num_fewshot",
            hint="set it to null or 0 for this benchmark",
        )


def _refuse_impossible(task: Any) -> None:
    """Refuse tasks of more than text, and those that run code unless all of it is in the sandbox.

    Raises:
        BenchmarkError: it is such a task, or there is no sandbox here.
    """
    if getattr(task, "MULTIMODAL", False):
        raise BenchmarkError(
            f"lm-eval's `{task.task_name}` needs images or sound, which no engine here takes",
            place="$.eval.benchmarks",
            hint="name tasks of text only",
        )
    if getattr(task, "UNSAFE_CODE", False) and not _runs_code(task):
        raise BenchmarkError(
            f"lm-eval's `{task.task_name}` runs generated code outside of the sandbox",
            place="$.eval.benchmarks",
            hint="only tasks that use the metric `code_eval` are run, as HumanEval and MBPP do",
        )
    if _runs_code(task):
        sandbox.require()


def _runs_code(task: Any) -> bool:
    return code_eval.is_used_by(list(_functions(task.config)))


def _functions(config: Any) -> Iterator[Callable[..., Any]]:
    """The functions that a task file names for its metrics and filters."""
    found = [config.process_results, *(m.get("metric") for m in config.metric_list or ())]
    for pipeline in config.filter_list or ():
        found += [value for step in pipeline["filter"] for value in step.values()]
    yield from (each for each in found if callable(each))


def _missing_package(error: BaseException | None) -> str | None:
    """The package that an error, or what caused it, says is missing."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.split(".")[0]
        error = error.__cause__ or error.__context__
    return None


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
