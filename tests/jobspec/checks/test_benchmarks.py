"""jobspec.checks.benchmarks: the benchmarks a spec names, and where their files are."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from jobspec.benchmarks import lm_eval_names
from jobspec.checks import rows
from jobspec.errors import BenchmarkError
from tests.support.checks import checked, refusal
from tests.support.paths import REPOSITORY


def test_an_unknown_benchmark_gets_a_suggestion(place: Path) -> None:
    error = refusal('eval.benchmarks=["aime24","aime255"]')
    assert isinstance(error, BenchmarkError)
    assert error.place == "$.eval.benchmarks[1]"
    assert "did you mean `aime25`?" in (error.hint or "")
    assert "aime255.jsonl" in (error.hint or "")


def test_a_benchmark_that_is_a_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "bench").mkdir()
    question = {"id": "1", "problem": "1+1?", "answer": "2"}
    (place / "bench/aime_mine.jsonl").write_text(json.dumps(question) + "\n")
    settings = 'eval.benchmarks=["aime_mine"]'
    assert refusal(settings).place == "$.eval.benchmarks[0]"
    assert checked(settings, "eval.benchmark_dir=bench").warnings == []
    monkeypatch.setenv("JOBSPEC_BENCHMARK_DIR", "bench")
    assert "which workers must have too" in checked(settings).warnings[0]


def test_a_damaged_benchmark_file(place: Path) -> None:
    (place / "bench").mkdir()
    (place / "bench/aime_mine.jsonl").write_text('{"id": 1, "problem": "1+1?", "answer": "two"}\n')
    error = refusal('eval.benchmarks=["aime_mine"]', "eval.benchmark_dir=bench")
    assert error.place == "row 1" and "aime_mine.jsonl" in (error.file or "")


def test_a_benchmark_directory_that_is_none(place: Path) -> None:
    assert refusal("eval.benchmark_dir=nowhere").place == "$.eval.benchmark_dir"


def test_benchmarks_without_a_file_are_a_warning(place: Path) -> None:
    assert any(w.startswith("minerva_math500, aime24, aime25:") for w in checked().warnings)


def test_a_task_of_lm_evals_is_known(place: Path) -> None:
    pytest.importorskip("lm_eval")
    assert checked('eval.benchmarks=["gsm8k"]').spec.eval
    assert "did you mean `gsm8k`?" in (refusal('eval.benchmarks=["gsm8"]').hint or "")


def test_task_names_are_those_lm_eval_itself_lists() -> None:
    tasks = pytest.importorskip("lm_eval.tasks", reason="needs the worker extra")
    real = set(tasks.TaskManager().all_tasks)
    found = lm_eval_names.lm_eval_names()
    assert found is not None
    assert len(real - found) < 0.005 * len(real)
    assert len(found - real) < 0.005 * len(real)


def test_task_names_can_be_asked_of_the_image(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    image = f"env PYTHONPATH={REPOSITORY} {sys.executable}"
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", image)
    assert "hellaswag" in (rows.lm_eval_names() or ())


def test_without_lm_eval_a_name_is_not_looked_up(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", f"{shlex.quote(sys.executable)} -I -S")
    assert any("lm-eval is not installed" in w for w in checked('eval.benchmarks=["x"]').warnings)
