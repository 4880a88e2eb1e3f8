"""worker.lm_eval_tasks.task_loading: what a name stands for, and what is refused before a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobspec.errors import BenchmarkError, JobspecError, SpecError
from jobspec.spec.schema import BenchmarkOverrides, EvalSpec, StopRule
from tests.support.lm_eval_tasks import CHOOSES, GENERATES, code_task, group_file, task_file
from worker.lm_eval_tasks import sandbox, task_loading
from worker.lm_eval_tasks.task_loading import TaskLibrary
from worker.lm_eval_tasks.task_run import scored_groups

Load = Callable[..., Any]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a name of the directory `tasks` alone: reading all of lm-eval's takes seconds."""
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def manager(include_path: Any) -> TaskManager:
        return TaskManager(include_path=include_path, include_defaults=False)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", manager)

    def load(name: str, **settings: Any) -> Any:
        return TaskLibrary(EvalSpec(**settings), [tmp_path / "tasks"]).load(name)

    return load


def refusal(load: Load, name: str, **settings: Any) -> JobspecError:
    with pytest.raises(JobspecError) as caught:
        load(name, **settings)
    return caught.value


def test_a_tag_and_a_group_stand_for_their_tasks(load: Load, tmp_path: Path) -> None:
    for name in ("a", "b"):
        task_file(tmp_path / "tasks", name, tag="tagged", **CHOOSES)
    group_file(tmp_path / "tasks", "inner", ["a"], scored=True)
    group_file(tmp_path / "tasks", "outer", ["inner", "b"], scored=False)
    assert list(load("tagged").tasks) == ["a", "b"]
    assert [group.name for group in scored_groups(load("outer"))] == ["inner"]
    (fact, _) = map(task_loading.facts, load("tagged").tasks.values())
    assert (fact.task, fact.questions, fact.max_gen_toks) == ("a", 4, None)


def test_names_that_share_a_task_are_refused(tmp_path: Path, load: Load) -> None:
    task_file(tmp_path / "tasks", "a", tag="tagged", **CHOOSES)
    library = TaskLibrary(EvalSpec(), [tmp_path / "tasks"])
    library.load("a")
    with pytest.raises(SpecError, match="`a` is part of both `a` and `tagged`"):
        library.load("tagged")


def test_a_missing_package_is_named(load: Load, tmp_path: Path) -> None:
    task_file(tmp_path / "tasks", "a", text="process_docs: !function uses.docs\n", **GENERATES)
    (tmp_path / "tasks" / "uses.py").write_text("import no_such_package.part\ndocs = None\n")
    error = refusal(load, "a")
    assert isinstance(error, BenchmarkError)
    assert "`a` needs the Python package `no_such_package`" in error.message


def test_missing_data_and_damaged_data_are_different_errors(load: Load, tmp_path: Path) -> None:
    task_file(tmp_path / "tasks", "a", **GENERATES)
    (tmp_path / "tasks" / "a.jsonl").unlink()
    assert not isinstance(refusal(load, "a"), task_loading.DataMissing)
    task_file(tmp_path / "tasks", "b", **{**GENERATES, "dataset_path": "nobody/nothing"})
    error = refusal(load, "b")
    assert isinstance(error, task_loading.DataMissing) and "jobspec fetch" in (error.hint or "")


def test_a_generation_setting_no_engine_has_is_refused(load: Load, tmp_path: Path) -> None:
    kwargs = {"until": [], "num_beams": 4}
    task_file(tmp_path / "tasks", "a", **{**GENERATES, "generation_kwargs": kwargs})
    assert "`num_beams`" in refusal(load, "a").message


@pytest.mark.parametrize(
    ("fields", "override", "place"),
    [
        (GENERATES, {"avg_k": 4}, "avg_k"),
        (GENERATES, {"stop_rule": StopRule(half_width=0.1)}, "stop_rule"),
        (CHOOSES, {"temperature": 0.5}, "temperature"),
        (CHOOSES, {"presence_penalty": 0.5}, "presence_penalty"),
        ({**CHOOSES, "num_fewshot": 0}, {"num_fewshot": 2}, "num_fewshot"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(
    load: Load, tmp_path: Path, fields: dict[str, Any], override: dict[str, Any], place: str
) -> None:
    task_file(tmp_path / "tasks", "a", **fields)
    error = refusal(load, "a", overrides={"a": BenchmarkOverrides(**override)})
    assert error.place == f"$.eval.overrides.a.{place}"


def test_overrides_reach_the_task(load: Load, tmp_path: Path) -> None:
    task_file(tmp_path / "tasks", "a", **GENERATES)
    chosen = BenchmarkOverrides(temperature=0.7, max_gen_toks=99, presence_penalty=1.5)
    (task,) = load("a", overrides={"a": chosen}).tasks.values()
    sampling, stops = task_loading.generation_settings(task)
    assert (sampling.temperature, sampling.max_gen_toks, stops) == (0.7, 99, ("\n",))
    assert sampling.presence_penalty == 1.5


def test_code_needs_a_sandbox(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task_file(tmp_path / "tasks", "a", **GENERATES, unsafe_code=True)
    assert "outside of the sandbox" in refusal(load, "a").message
    code_task(tmp_path / "tasks", "b")
    monkeypatch.setattr(sandbox, "missing", lambda: "there is no `bwrap`")
    error = refusal(load, "b")
    assert "there is no `bwrap`" in error.message and "bubblewrap" in (error.hint or "")
    monkeypatch.setattr(sandbox, "missing", lambda: None)
    monkeypatch.setattr(sandbox, "pass_all", lambda programs: [True] * len(programs))
    (task,) = load("b").tasks.values()
    assert task_loading.facts(task).runs_code
