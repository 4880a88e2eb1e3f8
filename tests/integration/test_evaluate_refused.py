"""What the eval phase refuses: bad input, before anything is generated."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.records.attempt import PhaseError
from jobspec.records.reports import EvalReport
from jobspec.spec.schema import BenchmarkOverrides, EvalSpec
from jobspec.storage.layout import AttemptPaths
from tests.support.evaluations import (
    aime_file,
    make_attempt,
    make_trained_attempt,
    questions,
    run_phase,
)
from tests.support.models import stories_model
from tests.support.paths import needs_data

pytestmark = needs_data
ROW = {"id": "a", "problem": "What?", "answer": 7}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stories_model(tmp_path_factory.mktemp("model") / "stories")


def refused(attempt: AttemptPaths, **extra: str) -> str:
    """The error message that the phase records."""
    done = run_phase(attempt, **extra)
    assert done.returncode == 3, done.stderr
    error = msgspec.json.decode(attempt.error.read_bytes(), type=PhaseError)
    assert not attempt.done("eval").exists()
    assert not list(attempt.eval.glob("*/generations-*.jsonl"))
    return f"{error.message}\nhint: {error.hint}"


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([ROW, {"id": "b", "problem": "What?"}], "row 2: the field `answer` is missing"),
        (
            [ROW, {"problem": "What?", "answer": 7}],
            "row 2: the field `id` or `unique_id` is missing",
        ),
        ([ROW, {**ROW, "problem": "Else?"}], "row 2: the id `a` stands in row 1 too"),
        ([{**ROW, "answer": "1000"}], "row 1: the answer `1000` is not an integer from 0 to 999"),
        ([{**ROW, "answer": "x"}], "row 1: the answer `x` is not an integer"),
        ([], "has no questions"),
    ],
    ids=["no answer", "no id", "twice", "too large", "no integer", "empty"],
)
def test_a_damaged_benchmark_file_is_refused(
    model: Path, tmp_path: Path, rows: list[dict[str, Any]], wanted: str
) -> None:
    bench = aime_file(tmp_path / "bench", rows)
    settings = EvalSpec(benchmarks=("aime_test",), benchmark_dir=str(bench), avg_k=2)
    message = refused(make_attempt(tmp_path / "root", model, settings))
    assert wanted in message
    assert "aime_test.jsonl" in message


def test_a_context_too_short_is_refused_before_any_generation(model: Path, tmp_path: Path) -> None:
    bench = aime_file(tmp_path / "bench", questions(2))
    settings = EvalSpec(
        benchmarks=("aime_test",), benchmark_dir=str(bench), avg_k=2, max_gen_toks=4090
    )
    message = refused(make_attempt(tmp_path / "root", model, settings))
    assert "the model's context is 4096" in message
    assert "aime_test: $.eval.max_gen_toks" in message


def test_a_checkpoint_without_tokenizer_is_refused(tmp_path: Path) -> None:
    model = stories_model(tmp_path / "model")
    (model / "tokenizer.json").unlink()
    bench = aime_file(tmp_path / "bench", questions(2))
    settings = EvalSpec(benchmarks=("aime_test",), benchmark_dir=str(bench), avg_k=2)
    message = refused(make_attempt(tmp_path / "root", model, settings))
    assert "no tokenizer can be loaded" in message


def test_a_model_without_chat_template_is_refused_by_the_published_protocol(tmp_path: Path) -> None:
    model = stories_model(tmp_path / "model", template=None)
    bench = aime_file(tmp_path / "bench", questions(2))
    settings = EvalSpec(benchmarks=("aime_test",), benchmark_dir=str(bench), avg_k=2)
    message = refused(make_attempt(tmp_path / "root", model, settings))
    assert "no chat template" in message


def test_an_unknown_benchmark_is_refused(model: Path, tmp_path: Path) -> None:
    settings = EvalSpec(benchmarks=("no_such_task",))
    message = refused(make_attempt(tmp_path / "root", model, settings))
    assert "`no_such_task` is neither" in message


def test_a_benchmark_out_of_reach_names_the_command_that_fetches_it(
    model: Path, tmp_path: Path
) -> None:
    settings = EvalSpec(benchmarks=("aime24",), avg_k=2)
    attempt = make_attempt(tmp_path / "root", model, settings)
    message = refused(attempt, HF_HOME=str(tmp_path / "hf"))
    assert "jobspec fetch" in message
    assert "JOBSPEC_BENCHMARK_DIR" in message


def test_a_trained_model_that_is_not_there_is_refused(model: Path, tmp_path: Path) -> None:
    bench = aime_file(tmp_path / "bench", questions(2))
    settings = EvalSpec(benchmarks=("aime_test",), benchmark_dir=str(bench), avg_k=2)
    attempt = make_trained_attempt(tmp_path / "root", settings, model)
    shutil.rmtree(attempt.final_model)
    message = refused(attempt)
    assert "there is no trained model to score" in message and "was deleted or moved" in message
    attempt.done("train").unlink()
    attempt.error.unlink()  # the first error is kept
    assert "`jobspec logs JOB --phase train` says why" in refused(attempt)


def test_a_refused_benchmark_leaves_the_others_their_scores(model: Path, tmp_path: Path) -> None:
    bench = aime_file(tmp_path / "bench", questions(2))
    aime_file(bench, questions(2), name="aime_long")
    aime_file(bench, [{**ROW, "answer": "x"}], name="aime_bad")
    settings = EvalSpec(
        benchmarks=("aime_bad", "aime_test", "aime_long"),
        benchmark_dir=str(bench),
        avg_k=2,
        max_gen_toks=8,
        overrides={"aime_long": BenchmarkOverrides(max_gen_toks=4090)},
    )
    attempt = make_attempt(tmp_path / "root", model, settings)
    done = run_phase(attempt)
    assert done.returncode == 3, done.stderr
    error = msgspec.json.decode(attempt.error.read_bytes(), type=PhaseError)
    assert error.message.startswith("2 of 3 benchmarks failed: aime_bad: ")
    assert "not an integer" in error.message and "context is 4096" in error.message
    assert "jobspec retry" in (error.hint or "")
    partial = msgspec.json.decode(attempt.partial_scores.read_bytes(), type=EvalReport)
    assert partial.main == ("bench/aime_test/avg_at_2",)
    assert sorted(partial.failed or ()) == ["aime_bad", "aime_long"]
    assert (attempt.eval / "aime_test" / "scores.jsonl").exists()
    assert not (attempt.eval / "aime_long").exists()
