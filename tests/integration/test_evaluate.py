"""The eval phase as the loop runs it: a real model, real benchmarks, real processes."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from evalkit import (
    DATA,
    aime_file,
    command,
    environment,
    generations,
    make_attempt,
    needs_data,
    questions,
    read_lines,
    run_phase,
    stories_model,
)

from jobspec.paths import AttemptPaths
from jobspec.record import PhaseError, Progress
from jobspec.spec import BenchmarkOverrides, EvalSpec

pytestmark = needs_data
BESIDE = {
    "stderr", "sampling_stderr", "truncated_frac", "unclosed_think_frac", "no_answer_frac",
    "mean_response_tokens",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stories_model(tmp_path_factory.mktemp("model") / "stories")


@pytest.fixture(scope="module")
def scored(model: Path, tmp_path_factory: pytest.TempPathFactory) -> AttemptPaths:
    """8 questions of MATH-500 and 4 of each AIME at k = 4."""
    evaluation = EvalSpec(
        benchmark_dir=str(DATA),
        avg_k=4,
        max_gen_toks=64,
        limit=4,
        overrides={"minerva_math500": BenchmarkOverrides(limit=8)},
    )
    attempt = make_attempt(tmp_path_factory.mktemp("root"), model, evaluation)
    done = run_phase(attempt)
    assert done.returncode == 0, done.stderr
    return attempt


def summary(attempt: AttemptPaths) -> dict[str, Any]:
    return json.loads(attempt.done("eval").read_text())


def test_every_metric_of_every_benchmark_is_there(scored: AttemptPaths) -> None:
    metrics = summary(scored)["metrics"]
    expected = {"bench/minerva_math500/math_verify"}
    expected |= {f"bench/minerva_math500/{name}" for name in BESIDE}
    for bench in ("aime24", "aime25"):
        names = BESIDE | {"avg_at_4", "pass_at_1", "pass_at_2", "pass_at_4", "maj_at_4"}
        expected |= {f"bench/{bench}/{name}" for name in names}
    assert set(metrics) == expected
    assert metrics["bench/minerva_math500/sampling_stderr"] is None
    assert metrics["bench/aime24/truncated_frac"] == 1.0
    assert metrics["bench/aime24/mean_response_tokens"] == 64


def test_what_a_number_has_to_be_read_with_stands_beside_it(scored: AttemptPaths) -> None:
    protocol = summary(scored)["protocol"]["aime24"]
    file = (DATA / "aime24.jsonl").read_bytes()
    assert protocol["benchmark_sha256"] == hashlib.sha256(file).hexdigest()
    assert (protocol["protocol"], protocol["shots"], protocol["k"]) == ("published", 0, 4)
    assert (protocol["temperature"], protocol["top_p"], protocol["top_k"]) == (0.6, 0.95, None)
    assert (protocol["questions"], protocol["engine"], protocol["dtype"]) == (4, "hf", "float32")
    assert protocol["lm_eval_version"] == "0.4.13"


def test_prompts_ask_for_a_box_in_the_model_s_own_chat(scored: AttemptPaths) -> None:
    rows = read_lines(scored.eval / "aime24" / "questions.jsonl")
    problem = json.loads((DATA / "aime24.jsonl").read_text().splitlines()[0])["problem"]
    assert rows[0]["prompt"] == (
        f"<s>user: {problem}\n\nPlease reason step by step, and put your final answer within "
        "\\boxed{}.\nassistant: "
    )
    assert rows[0]["opens_think"] is False
    assert {row["prompt_tokens"] > 20 for row in rows} == {True}


def test_the_samples_of_a_question_are_independent(scored: AttemptPaths) -> None:
    rows = generations(scored.eval / "aime24")
    assert len(rows) == 16
    assert len({row["seed"] for row in rows}) == 16
    for name in {row["question"] for row in rows}:
        assert len({row["text"] for row in rows if row["question"] == name}) == 4


def test_progress_counts_samples_and_the_metrics_row_has_the_scores(scored: AttemptPaths) -> None:
    progress = msgspec.json.decode(scored.progress.read_bytes(), type=Progress)
    assert (progress.phase, progress.done, progress.total, progress.unit) == (
        "eval",
        40,
        40,
        "samples",
    )
    (row,) = read_lines(scored.metrics)
    assert row["phase"] == "eval"
    assert row["bench/aime25/avg_at_4"] == summary(scored)["metrics"]["bench/aime25/avg_at_4"]


def test_kill_and_resume_gives_the_text_of_an_uninterrupted_run(
    model: Path, tmp_path: Path
) -> None:
    bench = aime_file(tmp_path / "bench", questions(12))
    evaluation = EvalSpec(
        benchmarks=("aime_test",), benchmark_dir=str(bench), avg_k=32, max_gen_toks=96
    )
    whole = make_attempt(tmp_path / "whole", model, evaluation)
    assert run_phase(whole).returncode == 0
    first = make_attempt(tmp_path / "cut", model, evaluation)
    found: list[Path] = []
    process = subprocess.Popen(command(first), env=environment(), stderr=subprocess.DEVNULL)
    try:
        while not found and process.poll() is None:
            found = sorted((first.eval / "aime_test").glob("generations-*.jsonl"))
            time.sleep(0.01)  # a condition on another process's files
        assert process.poll() is None, "it finished before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = {path.name: path.read_bytes() for path in (first.eval / "aime_test").glob("gen*")}
    assert 0 < len(kept) < 6
    second = make_attempt(tmp_path / "cut", model, evaluation, number=2)
    assert run_phase(second).returncode == 0
    for path in sorted((whole.eval / "aime_test").glob("*.jsonl")):
        assert (second.eval / "aime_test" / path.name).read_bytes() == path.read_bytes()
    assert len(generations(second.eval / "aime_test")) == 12 * 32
    assert summary(second)["metrics"] == summary(whole)["metrics"]
    for name, data in kept.items():
        assert (second.eval / "aime_test" / name).read_bytes() == data


def test_a_task_of_lm_eval_s_own_form_passes_through(model: Path, tmp_path: Path) -> None:
    rows = [{"q": f"Say {i}.", "a": str(i)} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "say_it.yaml").write_text(
        f"""\
task: say_it
dataset_path: json
dataset_kwargs:
  data_files:
    test: {tmp_path}/rows.jsonl
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{a}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata: {{version: 3.0}}
"""
    )
    evaluation = EvalSpec(
        benchmarks=("say_it",),
        benchmark_dir=str(tmp_path),
        overrides={"say_it": BenchmarkOverrides(limit=4)},
    )
    attempt = make_attempt(tmp_path / "root", model, evaluation)
    done = run_phase(attempt, HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 0, done.stderr
    found = summary(attempt)
    assert found["metrics"] == {"bench/say_it/exact_match": 0.0, "bench/say_it/stderr": 0.0}
    protocol = found["protocol"]["say_it"]
    assert (protocol["protocol"], protocol["task_version"], protocol["shots"]) == (
        "lm-eval",
        3.0,
        0,
    )
    assert protocol["questions"]["effective"] == 4


# --- bad input: refused before anything is generated


def refused(attempt: AttemptPaths, **extra: str) -> str:
    """The phase's own account of why it gave up."""
    done = run_phase(attempt, **extra)
    assert done.returncode == 3, done.stderr
    error = msgspec.json.decode(attempt.error.read_bytes(), type=PhaseError)
    assert not attempt.done("eval").exists()
    assert not list(attempt.eval.glob("*/generations-*.jsonl"))
    return f"{error.message}\nhint: {error.hint}"


ROW = {"id": "a", "problem": "What?", "answer": 7}


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
    evaluation = EvalSpec(benchmarks=("aime_test",), benchmark_dir=str(bench), avg_k=2)
    message = refused(make_attempt(tmp_path / "root", model, evaluation))
    assert wanted in message
    assert "aime_test.jsonl" in message


def test_a_context_too_short_is_refused_before_any_generation(model: Path, tmp_path: Path) -> None:
    bench = aime_file(tmp_path / "bench", questions(2))
    evaluation = EvalSpec(
        benchmarks=("aime_test",), benchmark_dir=str(bench), avg_k=2, max_gen_toks=4090
    )
    message = refused(make_attempt(tmp_path / "root", model, evaluation))
    assert "the model's context is 4096" in message
    assert "aime_test: $.eval.max_gen_toks" in message


def test_a_checkpoint_without_tokenizer_is_refused(tmp_path: Path) -> None:
    model = stories_model(tmp_path / "model")
    (model / "tokenizer.json").unlink()
    bench = aime_file(tmp_path / "bench", questions(2))
    evaluation = EvalSpec(benchmarks=("aime_test",), benchmark_dir=str(bench), avg_k=2)
    message = refused(make_attempt(tmp_path / "root", model, evaluation))
    assert "no tokenizer can be loaded" in message


def test_a_model_without_chat_template_is_refused_by_the_published_protocol(tmp_path: Path) -> None:
    model = stories_model(tmp_path / "model", template=None)
    bench = aime_file(tmp_path / "bench", questions(2))
    evaluation = EvalSpec(benchmarks=("aime_test",), benchmark_dir=str(bench), avg_k=2)
    message = refused(make_attempt(tmp_path / "root", model, evaluation))
    assert "no chat template" in message


def test_an_unknown_benchmark_is_refused(model: Path, tmp_path: Path) -> None:
    evaluation = EvalSpec(benchmarks=("no_such_task",))
    message = refused(make_attempt(tmp_path / "root", model, evaluation))
    assert "`no_such_task` is neither" in message


def test_a_benchmark_out_of_reach_names_the_command_that_fetches_it(
    model: Path, tmp_path: Path
) -> None:
    evaluation = EvalSpec(benchmarks=("aime24",), avg_k=2)
    attempt = make_attempt(tmp_path / "root", model, evaluation)
    message = refused(attempt, HF_HOME=str(tmp_path / "hf"))
    assert "jobspec fetch" in message
    assert "JOBSPEC_BENCHMARK_DIR" in message
