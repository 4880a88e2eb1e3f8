"""jobspec.checks.lm_eval_tasks: lm-eval's own tasks are loaded before a spec becomes a job."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobspec.checks import lm_eval_tasks, rows
from jobspec.errors import JobspecError
from jobspec.spec import builder
from jobspec.spec.builder import Request
from tests.support.checks import refusal
from tests.support.lm_eval_tasks import CHOOSES, GENERATES, task_file

Check = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def no_answers_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_loaded_tasks", {})


@pytest.fixture
def check(place: Path) -> Check:
    """Checks the tasks of a spec that scores the directory's model as it is."""

    def check(*names: str, **settings: Any) -> list[str]:
        given = {"benchmarks": list(names), "benchmark_dir": str(place / "tasks"), **settings}
        sets = tuple(f"eval.{key}={json.dumps(value)}" for key, value in given.items())
        request = Request(models=[str(place / "tiny")], settings=sets, name="s", train=False)
        (spec,) = builder.build(request)
        return list(lm_eval_tasks.check_tasks(spec, place / "root", Path("s.json"), lambda _: None))

    return check


def answering(monkeypatch: pytest.MonkeyPatch, place: Path, answer: object, code: int = 0) -> None:
    """Let the worker's Python be a program that prints `answer`."""
    program = place / "worker.py"
    program.write_text(f"import sys\nprint({json.dumps(json.dumps(answer))})\nsys.exit({code})\n")
    command = shlex.join([sys.executable, str(program)])
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", command)


def test_the_workers_code_loads_the_tasks(place: Path, check: Check) -> None:
    pytest.importorskip("lm_eval")
    task_file(place / "tasks", "says", tag="all", **GENERATES)
    task_file(place / "tasks", "picks", tag="all", **CHOOSES)
    task_file(place / "tasks", "far", **{**GENERATES, "dataset_path": "nobody/nothing"})
    (warning,) = check("all", "far")
    assert warning.startswith("far: no data here") and "jobspec fetch" in warning


def test_a_refusal_names_the_spec(
    place: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = {"message": "needs the Python package `x`", "hint": "install", "place": "$.eval"}
    answering(monkeypatch, place, {"error": error}, code=3)
    with pytest.raises(JobspecError, match="needs the Python package `x`") as caught:
        check("says")
    assert (caught.value.file, caught.value.place) == ("s.json", "$.eval")


def test_without_lm_eval_tasks_are_not_checked(
    place: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", f"{shlex.quote(sys.executable)} -I -S")
    (warning,) = check("says")
    assert "can't be checked here" in warning


def test_a_tasks_own_budget_must_fit_the_context(
    place: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"task": "says", "questions": 4, "max_gen_toks": 5000}
    answering(monkeypatch, place, {"tasks": {"says": [task]}})
    with pytest.raises(JobspecError, match="`says` generates up to 5000 tokens"):
        check("says")
    # The spec's own budget is not that of lm-eval's tasks.
    answering(monkeypatch, place, {"tasks": {"says": [task | {"max_gen_toks": 64}]}})
    assert check("says", max_gen_toks=10**6) == []


def test_our_benchmarks_need_no_lm_eval(
    place: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", "/nowhere/python")
    assert check("aime24", "MATH-500") == []


def test_examples_and_protocols_that_a_benchmark_lacks(place: Path) -> None:
    error = refusal('eval.benchmarks=["minerva_math500","aime24"]', "eval.num_fewshot=4")
    assert error.place == "$.eval.num_fewshot" and "`aime24` has no worked" in error.message
    error = refusal('eval.benchmarks=["gpqa_diamond"]', "eval.protocol=stock")
    assert error.place == "$.eval.protocol"


def test_the_specs_of_a_grid_share_one_answer(
    place: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"task": "says", "questions": 4, "max_gen_toks": 64}
    answering(monkeypatch, place, {"tasks": {"says": [task]}})
    assert check("says") == []
    answering(monkeypatch, place, {"error": {"message": "asked again"}}, code=3)
    assert check("says") == []
    with pytest.raises(JobspecError, match="asked again"):
        check("says", limit=5)
