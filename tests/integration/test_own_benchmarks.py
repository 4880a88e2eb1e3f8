"""A benchmark of one's own in the eval phase: every reader grades a real model's answers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from jobspec.records import evaluation
from jobspec.spec.schema import EvalSpec
from jobspec.storage.layout import AttemptPaths
from tests.support.evaluations import (
    aime_file,
    command,
    environment,
    make_attempt,
    read_lines,
    run_phase,
)
from tests.support.lm_eval_tasks import needs_sandbox
from tests.support.models import stories_model
from tests.support.paths import needs_data

pytestmark = [needs_data, needs_sandbox]
ROWS: list[dict[str, Any]] = [
    {"reader": "number", "answer": "0.5"},
    {"reader": "math", "answer": "\\frac{x}{2}"},
    {"reader": "choice", "answer": "B", "choices": ["Rome", "Paris"]},
    {"reader": "exact", "answer": "Paris"},
    {"reader": "regex", "answer": "e4", "pattern": r"Move: (\w+)"},
    {"reader": "code", "answer": "x = 1", "tests": "assert x == 1"},
]
RIGHT = (
    "so\n#### .50", "\\boxed{0.5x}", "The answer is Paris.", "paris", "Move: E4",
    "```python\nx = 1\n```",
)  # fmt: skip


def test_every_reader_grades_in_one_job_and_again_when_rescored(tmp_path: Path) -> None:
    rows = [{"id": row["reader"], "question": "What?", **row} for row in ROWS]
    place = aime_file(tmp_path / "benchmarks", rows, "own_mixed")
    settings = EvalSpec(
        benchmarks=("own_mixed",), benchmark_dir=str(place), avg_k=1, max_gen_toks=8
    )
    attempt = make_attempt(tmp_path / "root", stories_model(tmp_path / "model"), settings)
    done = run_phase(attempt)
    assert done.returncode == 0, done.stderr
    assert metrics(attempt)["bench/own_mixed/avg_at_1"] == 0.0
    prompts = {row["id"]: row["prompt"] for row in read_lines(samples(attempt) / "questions.jsonl")}
    assert "A) Rome\nB) Paris" in prompts["choice"] and "```python" in prompts["code"]
    (place / "own_mixed.jsonl").unlink()
    answer_right(attempt)
    again = run_rescore(attempt)
    assert again.returncode == 0, again.stderr
    assert metrics(attempt)["bench/own_mixed/avg_at_1"] == 1.0
    rules = {each.question: each.rule for each in evaluation.samples(samples(attempt))}
    assert rules == {
        "number": "after ####", "math": "box", "choice": "phrase", "exact": "bare answer",
        "regex": "pattern", "code": "code block",
    }  # fmt: skip


def samples(attempt: AttemptPaths) -> Path:
    return attempt.eval / "own_mixed"


def metrics(attempt: AttemptPaths) -> dict[str, float]:
    return json.loads(attempt.done("eval").read_text())["metrics"]


def answer_right(attempt: AttemptPaths) -> None:
    """Replace what the model wrote by right answers, each after a thought with a wrong one."""
    answers = {row["reader"]: text for row, text in zip(ROWS, RIGHT, strict=True)}
    for file in samples(attempt).glob("generations-*.jsonl"):
        rows = read_lines(file)
        for row in rows:
            text = f"<think>\\boxed{{7}}</think>{answers[row['question']]}"
            row |= {"text": text, "finish": "stop", "thinking": None}
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_rescore(attempt: AttemptPaths) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(attempt, "rescore"), env=environment(), capture_output=True, text=True, check=False
    )
