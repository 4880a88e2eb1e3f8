"""The eval phase as the worker runs it: a real model, real benchmarks, real processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.records import evaluation
from jobspec.records.attempt import Progress
from jobspec.spec.schema import BenchmarkOverrides, EvalSpec, StopRule
from jobspec.storage.layout import AttemptPaths
from tests.support.evaluations import (
    aime_file,
    command,
    environment,
    generations,
    make_attempt,
    make_trained_attempt,
    questions,
    read_lines,
    run_phase,
)
from tests.support.models import stories_model
from tests.support.paths import DATA, needs_data

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
    settings = EvalSpec(
        benchmark_dir=str(DATA),
        avg_k=4,
        max_gen_toks=64,
        limit=4,
        overrides={"minerva_math500": BenchmarkOverrides(limit=8)},
    )
    attempt = make_attempt(tmp_path_factory.mktemp("root"), model, settings)
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


def test_the_protocol_is_recorded_beside_the_scores(scored: AttemptPaths) -> None:
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


KILLS = int(os.environ.get("JOBSPEC_TEST_KILLS", "3"))


def kill_while_it_draws(attempt: AttemptPaths, chance: random.Random) -> bool:
    """Run the phase and kill -9 it at random around its next chunks; False if it finished first."""
    bench = attempt.eval / "aime_test"
    wanted = len(list(bench.glob("generations-*"))) + chance.randrange(3)
    process = subprocess.Popen(command(attempt), env=environment(), stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and len(list(bench.glob("generations-*"))) <= wanted:
            time.sleep(0.01)  # a condition on another process's files
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.random())
        return process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_killed_repeatedly_it_generates_what_an_uninterrupted_run_does(
    model: Path, tmp_path: Path
) -> None:
    bench = aime_file(tmp_path / "bench", questions(4 + 4 * KILLS))
    settings = EvalSpec(
        benchmarks=("aime_test",), benchmark_dir=str(bench), avg_k=32, max_gen_toks=64
    )
    whole = make_attempt(tmp_path / "whole", model, settings)
    assert run_phase(whole).returncode == 0
    chance = random.Random(20)
    killed = 0
    for number in range(1, KILLS + 1):
        attempt = make_attempt(tmp_path / "cut", model, settings, number=number)
        killed += kill_while_it_draws(attempt, chance)
    assert killed > KILLS / 2
    last = make_attempt(tmp_path / "cut", model, settings, number=KILLS + 1)
    earlier = last.job_dir / "attempts"
    kept = {path.name: path.read_bytes() for path in sorted(earlier.glob("*/eval/aime_test/gen*"))}
    assert kept
    assert run_phase(last).returncode == 0
    for path in sorted((whole.eval / "aime_test").glob("*.jsonl")):
        assert (last.eval / "aime_test" / path.name).read_bytes() == path.read_bytes()
    rows = generations(last.eval / "aime_test")
    samples = {(row["question"], row["sample"]) for row in rows}
    assert len(rows) == len(samples) == (4 + 4 * KILLS) * 32
    assert summary(last)["metrics"] == summary(whole)["metrics"]
    for name, data in kept.items():
        assert (last.eval / "aime_test" / name).read_bytes() == data


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGUSR2])
def test_stopped_on_request_it_keeps_finished_chunks(
    model: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    bench = aime_file(tmp_path / "bench", questions(12))
    settings = EvalSpec(
        benchmarks=("aime_test",), benchmark_dir=str(bench), avg_k=32, max_gen_toks=256
    )
    attempt = make_attempt(tmp_path / "root", model, settings)
    process = subprocess.Popen(command(attempt), env=environment(), stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not list(attempt.eval.glob("*/generations-*")):
            time.sleep(0.01)  # a condition on another process's files
        process.send_signal(stop)
        assert process.wait(30) == 75
    finally:
        process.kill()
        process.wait()
    assert not attempt.done("eval").exists()
    assert not attempt.error.exists()


def test_all_of_math500_and_both_aime_sets(model: Path, tmp_path: Path) -> None:
    settings = EvalSpec(
        benchmark_dir=str(DATA),
        avg_k=4,
        max_gen_toks=8,
        overrides={"minerva_math500": BenchmarkOverrides(avg_k=4)},
    )
    attempt = make_attempt(tmp_path / "root", model, settings)
    done = run_phase(attempt)
    assert done.returncode == 0, done.stderr
    found = summary(attempt)
    for bench, count in (("minerva_math500", 500), ("aime24", 30), ("aime25", 30)):
        main = {"math_verify"} if bench.startswith("minerva") else set()
        names = BESIDE | main | {"avg_at_4", "pass_at_1", "pass_at_2", "pass_at_4", "maj_at_4"}
        metrics = {name for name in found["metrics"] if name.startswith(f"bench/{bench}/")}
        assert metrics == {f"bench/{bench}/{name}" for name in names}
        assert found["protocol"][bench]["questions"] == count
        assert len(generations(attempt.eval / bench)) == 4 * count


def rescore(attempt: AttemptPaths) -> dict[str, Any]:
    done = subprocess.run(
        command(attempt, "rescore"), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_rescoring_needs_no_model_and_changes_nothing(scored: AttemptPaths, tmp_path: Path) -> None:
    copy = AttemptPaths(tmp_path / "job" / "attempts" / "1")
    shutil.copytree(scored.dir, copy.dir)
    files = [*copy.eval.glob("*/scores.jsonl"), copy.done("eval")]
    before = {path: path.read_bytes() for path in files}
    assert len(before) == 4
    assert rescore(copy) == {
        "benchmarks": ["aime24", "aime25", "minerva_math500"],
        "changed": {},
    }
    assert {path: path.read_bytes() for path in files} == before


def test_rescoring_reads_the_samples_as_they_are(scored: AttemptPaths, tmp_path: Path) -> None:
    copy = AttemptPaths(tmp_path / "job" / "attempts" / "1")
    shutil.copytree(scored.dir, copy.dir)
    copy.result.write_text(json.dumps({"job": "j", "attempt": 1, "metrics": {"eval_loss": 2.5}}))
    chunk = copy.eval / "aime24" / "generations-00000.jsonl"
    answers = {q["id"]: q["answer"] for q in read_lines(copy.eval / "aime24" / "questions.jsonl")}
    rows = read_lines(chunk)
    for row in rows:
        if row["sample"] < 2:
            row |= {"text": f"\\boxed{{{answers[row['question']]}}}", "finish": "stop"}
    chunk.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed = rescore(copy)["changed"]
    assert changed["bench/aime24/avg_at_4"] == [0.0, 0.5]
    assert changed["bench/aime24/truncated_frac"] == [1.0, 0.5]
    assert not any(name.startswith("bench/aime25") for name in changed)
    assert summary(copy)["metrics"]["bench/aime24/avg_at_4"] == 0.5
    assert summary(copy)["seconds"] == summary(scored)["seconds"]
    metrics = json.loads(copy.result.read_text())["metrics"]
    assert (metrics["eval_loss"], metrics["bench/aime24/maj_at_4"]) == (2.5, 1.0)


def test_rescoring_an_evaluation_that_is_not_complete_is_refused(
    scored: AttemptPaths, tmp_path: Path
) -> None:
    copy = AttemptPaths(tmp_path / "job" / "attempts" / "1")
    shutil.copytree(scored.dir, copy.dir)
    (copy.eval / "aime25" / "generations-00000.jsonl").unlink()
    before = copy.done("eval").read_bytes()
    done = subprocess.run(
        command(copy, "rescore"), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "the evaluation is not complete" in done.stderr
    assert copy.done("eval").read_bytes() == before


def test_samples_can_be_read_with_their_scores(scored: AttemptPaths) -> None:
    rows = list(evaluation.samples(scored.eval / "aime24"))
    assert [(row.question, row.sample) for row in rows[:5]] == [
        *(("2024-I-1", sample) for sample in range(4)),
        ("2024-I-2", 0),
    ]
    assert rows[0].prompt.startswith("<s>user: Every morning Aya")
    assert rows[0].response
    assert (rows[0].expected, rows[0].answer, rows[0].right) == ("204", None, False)
    assert rows[0].truncated


def test_every_epoch_is_scored_on_request(model: Path, tmp_path: Path) -> None:
    bench = aime_file(tmp_path / "bench", questions(2))
    settings = EvalSpec(
        benchmarks=("aime_test",),
        benchmark_dir=str(bench),
        avg_k=2,
        max_gen_toks=8,
        checkpoints="all",
        log_samples=True,
    )
    attempt = make_trained_attempt(tmp_path / "root", settings, model)
    for epoch in (2, 1):
        shutil.copytree(model, attempt.checkpoints / f"epoch-{epoch}")
    (attempt.checkpoints / "epoch-9").mkdir()  # on its way out: no model in it
    done = run_phase(attempt, JOBSPEC_EVAL_ENGINES="2")
    assert done.returncode == 0, done.stderr
    found = summary(attempt)
    points = found["checkpoints"]
    assert [(p["name"], p["epoch"]) for p in points] == [
        ("epoch-1", 1),
        ("epoch-2", 2),
        ("final", 3),
    ]
    assert points[2]["metrics"] == found["metrics"]
    # All alike: the first is as good as any.
    assert [p["best_of"] for p in points] == [["bench/aime_test/avg_at_2"], [], []]
    assert [row["epoch"] for row in read_lines(attempt.metrics)] == [1, 2, 3]
    names = ["aime_test", "epoch-1/aime_test", "epoch-2/aime_test"]
    assert sorted(evaluation.benchmark_dirs(attempt.eval)) == names
    progress = msgspec.json.decode(attempt.progress.read_bytes(), type=Progress)
    assert (progress.done, progress.total) == (12, 12)
    logged = read_lines(attempt.eval / "aime_test" / "samples.jsonl")
    assert len(logged) == 4
    assert logged[0]["prompt"].startswith("<s>user: What is the 0th number?")
    assert rescore(attempt) == {"benchmarks": names, "changed": {}}


def test_a_stop_rule_decides_the_same_after_a_kill_and_with_several_engines(
    model: Path, tmp_path: Path
) -> None:
    settings = EvalSpec(
        benchmarks=("aime_test",),
        benchmark_dir=str(aime_file(tmp_path / "bench", questions(12))),
        avg_k=32,
        stop_rule=StopRule(half_width=0.05),
        max_gen_toks=32,
    )
    whole = make_attempt(tmp_path / "whole", model, settings)
    assert run_phase(whole).returncode == 0
    plan = evaluation.read_plan(whole.eval / "aime_test")
    assert 2 < plan.k < 20 and plan.protocol.k == plan.k
    first = make_attempt(tmp_path / "cut", model, settings)
    assert kill_while_it_draws(first, random.Random(3))
    second = make_attempt(tmp_path / "cut", model, settings, number=2)
    done = run_phase(second, JOBSPEC_EVAL_ENGINES="2")
    assert done.returncode == 0, done.stderr
    for path in sorted((whole.eval / "aime_test").glob("*.jsonl")):
        assert (second.eval / "aime_test" / path.name).read_bytes() == path.read_bytes()
    assert len(generations(second.eval / "aime_test")) == 12 * plan.k
    found, expected = summary(second)["metrics"], summary(whole)["metrics"]
    discarded = evaluation.read_plan(second.eval / "aime_test").discarded
    for name, unused in (("samples_saved", discarded), ("tokens_saved", discarded * 32)):
        key = f"bench/aime_test/{name}"
        assert found.pop(key) == expected.pop(key) - unused
    assert found == expected
    assert rescore(second) == {"benchmarks": ["aime_test"], "changed": {}}
