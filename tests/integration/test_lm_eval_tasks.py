"""lm-eval's own tasks through the eval phase: each kind, one that fails, and a later attempt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobspec.records import evaluation
from jobspec.records.evaluation import Likelihood
from jobspec.spec.schema import BenchmarkOverrides, EvalSpec
from jobspec.storage.layout import AttemptPaths
from tests.support.evaluations import generations, make_attempt, read_lines, run_phase
from tests.support.lm_eval_tasks import (
    CHOOSES,
    GENERATES,
    ROLLS,
    code_task,
    group_file,
    needs_sandbox,
    task_file,
)
from tests.support.models import stories_model
from tests.support.paths import needs_data
from tests.support.real_tasks import real_tasks

pytestmark = needs_data
FILTERS = [
    {"name": "strict", "filter": [{"function": "regex", "regex_pattern": "answer (\\d)"}]},
    {"name": "flexible", "filter": [{"function": "regex", "regex_pattern": "(.)"}]},
]
for each in FILTERS:
    each["filter"].append({"function": "take_first"})  # type: ignore[union-attr] - a list


def tasks(directory: Path) -> Path:
    """A benchmark directory with each kind of task; `fails` can't be scored."""
    task_file(directory, "says", **GENERATES, filter_list=FILTERS)
    task_file(directory, "picks", count=6, **CHOOSES)
    for name in ("tagged_a", "tagged_b"):
        task_file(directory, name, tag="tagged", **CHOOSES)
    for name, count in (("part_a", 2), ("part_b", 6)):
        task_file(directory, name, count=count, **CHOOSES)
    group_file(directory, "whole", ["part_a", "part_b"], scored=True)
    task_file(directory, "rolls", **ROLLS)
    (directory / "score.py").write_text("def score(doc, results):\n    raise ValueError('no')\n")
    text = "process_results: !function score.score\n"
    task_file(directory, "fails", text=text, **GENERATES)
    return directory


NAMES = ("says", "picks", "tagged", "whole", "rolls", "fails")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stories_model(tmp_path_factory.mktemp("model") / "stories")


@pytest.fixture(scope="module")
def attempts(
    model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AttemptPaths, AttemptPaths]:
    """An attempt in which one benchmark fails, and the next one, in which it does not."""
    directory, root = tasks(tmp_path_factory.mktemp("tasks")), tmp_path_factory.mktemp("root")
    settings = EvalSpec(
        benchmarks=NAMES,
        benchmark_dir=str(directory),
        overrides={"says": BenchmarkOverrides(temperature=0.7, presence_penalty=0.5)},
        log_samples=True,
    )
    first, second = (make_attempt(root, model, settings, number) for number in (1, 2))
    done = run_phase(first, HF_HOME=str(directory / "hf"))
    assert done.returncode == 3, done.stderr
    assert "1 of 6 benchmarks failed: fails: ValueError: no" in done.stderr
    fixed = "def score(doc, results):\n    return {'exact_match': 1.0}\n"
    (directory / "score.py").write_text(fixed)
    done = run_phase(second, HF_HOME=str(directory / "hf"))
    assert done.returncode == 0, done.stderr
    return first, second


def report(attempt: AttemptPaths) -> dict[str, Any]:
    return json.loads(attempt.done("eval").read_text())


def test_a_task_that_fails_leaves_the_others_their_scores(
    attempts: tuple[AttemptPaths, AttemptPaths],
) -> None:
    first, second = attempts
    assert not first.done("eval").exists()
    partial = json.loads(first.partial_scores.read_text())
    assert partial["failed"] == {"fails": "ValueError: no"}
    complete = report(second)["metrics"]
    assert partial["metrics"] == {k: v for k, v in complete.items() if "/fails/" not in k}
    assert complete["bench/fails/exact_match"] == 1.0
    (row,) = read_lines(first.metrics)
    assert row["bench/picks/acc"] == partial["metrics"]["bench/picks/acc"]


def test_the_next_attempt_asks_the_model_nothing_again(
    attempts: tuple[AttemptPaths, AttemptPaths],
) -> None:
    first, second = attempts
    assert json.loads(first.partial_scores.read_text())["timing"]["tokens"] > 0
    assert report(second)["timing"]["tokens"] == 0
    assert generations(second.eval / "says") == generations(first.eval / "says")
    (chunk,) = first.eval.glob("picks/likelihoods-*.jsonl")
    assert (second.eval / "picks" / chunk.name).read_bytes() == chunk.read_bytes()
    assert len(evaluation.read_rows(chunk, Likelihood)) == 12


def test_tags_and_groups_become_scores(attempts: tuple[AttemptPaths, AttemptPaths]) -> None:
    metrics = report(attempts[1])["metrics"]
    assert {"bench/tagged_a/acc", "bench/tagged_b/acc"} <= metrics.keys()
    parts = [metrics[f"bench/whole/part_{each}/acc"] for each in "ab"]
    assert metrics["bench/whole/acc"] == pytest.approx((2 * parts[0] + 6 * parts[1]) / 8)
    assert not any(key.startswith("bench/part_") for key in metrics)
    assert "bench/whole/acc" in report(attempts[1])["main"]
    assert report(attempts[1])["protocol"]["whole"]["questions"] == 8


def test_every_metric_of_every_filter_is_kept(attempts: tuple[AttemptPaths, AttemptPaths]) -> None:
    metrics = report(attempts[1])["metrics"]
    found = {key.removeprefix("bench/says/") for key in metrics if key.startswith("bench/says/")}
    assert found == {
        *("exact_match", "stderr", "exact_match,flexible", "exact_match_stderr,flexible"),
        *("truncated_frac", "unclosed_think_frac", "mean_response_tokens"),
    }
    (score, *_) = evaluation.read_scores(attempts[1].eval / "says")
    assert set(score.metrics) == {"exact_match,strict", "exact_match,flexible"}


def test_the_settings_of_a_task_are_recorded(attempts: tuple[AttemptPaths, AttemptPaths]) -> None:
    protocol = report(attempts[1])["protocol"]["says"]
    assert (protocol["protocol"], protocol["metric"]) == ("lm-eval", "exact_match,strict")
    assert (protocol["temperature"], protocol["presence_penalty"]) == (0.7, 0.5)
    assert (protocol["max_gen_toks"], protocol["stop_after_thinking"]) == (8, ["\n"])
    assert (protocol["questions"], protocol["k"], protocol["chat_template"]) == (4, 1, True)
    assert protocol["engine"] == "hf" and len(protocol["prompt_sha256"]) == 64
    assert report(attempts[1])["protocol"]["rolls"]["higher_is_better"] is False


def test_samples_show_responses_and_likelihoods(
    attempts: tuple[AttemptPaths, AttemptPaths],
) -> None:
    said = list(evaluation.samples(attempts[1].eval / "says"))
    assert [sample.question for sample in said] == ["0", "1", "2", "3"]
    assert said[1].expected == "1" and said[1].tokens > 0
    assert len(read_lines(attempts[1].eval / "says" / "samples.jsonl")) == 4
    picked = list(evaluation.samples(attempts[1].eval / "picks"))
    assert picked[0].expected == "yes" and picked[0].answer in ("yes", "no")
    assert [line.split()[1] for line in picked[0].response.splitlines()] == ["yes", "no"]
    assert {sample.right for sample in picked} == {True, False}


@needs_sandbox
def test_generated_code_runs_in_the_sandbox(model: Path, tmp_path: Path) -> None:
    task_file(tmp_path / "tasks", "says", **GENERATES)
    code_task(tmp_path / "tasks", "codes")
    settings = EvalSpec(benchmarks=("codes",), benchmark_dir=str(tmp_path / "tasks"))
    attempt = make_attempt(tmp_path / "root", model, settings)
    done = run_phase(attempt, HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 0, done.stderr
    assert report(attempt)["metrics"]["bench/codes/pass@1"] == 0.5


@needs_sandbox
def test_lm_evals_own_task_files_run(model: Path, tmp_path: Path) -> None:
    names = real_tasks(tmp_path / "tasks")
    short = {
        n: BenchmarkOverrides(max_gen_toks=8) for n in ("gsm8k", "triviaqa", "humaneval", "mbpp")
    }
    settings = EvalSpec(
        benchmarks=names, benchmark_dir=str(tmp_path / "tasks"), limit=2, overrides=short
    )
    attempt = make_attempt(tmp_path / "root", model, settings)
    done = run_phase(attempt, HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 0, done.stderr
    found = report(attempt)
    assert [key.split("/")[1] for key in found["main"]] == list(names)
    assert {each["protocol"] for each in found["protocol"].values()} == {"lm-eval"}
    assert {each["questions"] for each in found["protocol"].values()} == {2}
    assert "bench/gsm8k/exact_match,flexible-extract" in found["metrics"]
    assert found["protocol"]["gsm8k"]["shots"] == 5
    assert {"bench/humaneval/pass@1", "bench/arc_easy/acc_norm"} <= found["metrics"].keys()
    low = {name for name, each in found["protocol"].items() if not each["higher_is_better"]}
    assert low == {"wikitext", "lambada_openai"}
    for name in names:
        assert list(evaluation.samples(attempt.eval / name))
