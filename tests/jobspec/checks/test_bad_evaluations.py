"""Evaluations that can't be right are refused by the real `validate` and `enqueue`, with a hint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobspec.queue.queue import Queue
from jobspec.spec import identity
from tests.support.commands import jobspec, jobspec_json
from tests.support.lm_eval_tasks import GENERATES, task_file
from tests.support.specs import base_spec

QUESTIONS = [{"id": f"q{i}", "problem": "1+1?", "answer": 2} for i in range(3)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model directory with a tokenizer, a benchmark, and a spec that scores the one on it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"max_position_embeddings": 4096}')
    (tmp_path / "model/tokenizer.json").write_text("{}")
    write_questions(tmp_path, QUESTIONS)
    return tmp_path


def write_questions(place: Path, rows: list[dict[str, Any]]) -> None:
    (place / "bench").mkdir(exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (place / "bench/aime_mine.jsonl").write_text(lines)


def write_spec(place: Path, **evaluation: Any) -> Path:
    """Written as JSON by hand, so that nothing but the commands looks at it."""
    fields = json.loads(identity.canonical(base_spec("./model")))
    fields["eval"] |= {
        "benchmarks": ["aime_mine"],
        "benchmark_dir": "bench",
        "max_gen_toks": 1024,
        **evaluation,
    }
    (place / "spec.json").write_text(json.dumps(fields))
    return place / "spec.json"


def refused(place: Path, **evaluation: Any) -> dict[str, Any]:
    """The one error that both commands give; nothing is enqueued."""
    spec = write_spec(place, **evaluation)
    (error,) = jobspec_json("validate", spec, cwd=place, code=1)["errors"]
    assert jobspec_json("enqueue", spec, "--root", "r", cwd=place, code=1)["errors"] == [error]
    assert Queue(place / "r").jobs() == []
    assert error["hint"]
    return error


def test_the_spec_they_start_from_is_good(place: Path) -> None:
    spec = write_spec(place)
    done = jobspec("enqueue", spec, "--root", "r", cwd=place)
    assert Queue(place / "r").job(done.stdout.strip()).state == "pending"
    assert f"{3 * 32 * 1024:,} tokens at most" in done.stderr


def test_an_unknown_task(place: Path) -> None:
    pytest.importorskip("lm_eval")
    error = refused(place, benchmarks=["aime_mine", "gsm8kk"])
    assert "`gsm8kk` is unknown" in error["message"] and "`gsm8k`" in error["hint"]
    assert error["place"] == "$.eval.benchmarks[1]"


def test_a_task_file_of_the_benchmark_directory_is_known(place: Path) -> None:
    pytest.importorskip("lm_eval")
    task_file(place / "bench", "my_own_task", **GENERATES)
    jobspec("validate", write_spec(place, benchmarks=["my_own_task"]), cwd=place)
    assert "is unknown" in refused(place, benchmarks=["mine"])["message"], "the file says `task:`"


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one(place: Path, k: int) -> None:
    assert refused(place, avg_k=k)["place"] == "$.eval.avg_k"
    error = refused(place, overrides={"aime_mine": {"avg_k": k}})
    assert "avg_k" in error["place"]


def test_temperature_0_with_several_samples(place: Path) -> None:
    error = refused(place, temperature=0)
    assert error["place"] == "$.eval.temperature" and "32 samples" in error["message"]
    jobspec("validate", write_spec(place, temperature=0, avg_k=1), cwd=place)
    error = refused(place, avg_k=1, temperature=0, overrides={"aime_mine": {"avg_k": 2}})
    assert "2 samples" in error["message"]


def test_a_stop_rule_without_anything_to_stop(place: Path) -> None:
    rule = {"half_width": 0.05}
    error = refused(place, avg_k=1, stop_rule=rule)
    assert error["place"] == "$.eval.stop_rule" and "one sample a question" in error["message"]
    overrides = {"aime_mine": {"avg_k": 1, "stop_rule": rule}}
    assert refused(place, overrides=overrides)["place"] == "$.eval.overrides.aime_mine.stop_rule"
    assert refused(place, stop_rule={"half_width": 0.5})["place"] == "$.eval.stop_rule.half_width"
    jobspec("validate", write_spec(place, stop_rule=rule), cwd=place)


def test_a_benchmark_file_with_a_missing_field(place: Path) -> None:
    write_questions(place, [*QUESTIONS, {"id": "q9", "problem": "1+1?"}])
    error = refused(place)
    assert (error["place"], "`answer`" in error["message"]) == ("row 4", True)
    assert error["file"].endswith("bench/aime_mine.jsonl")


def test_a_benchmark_file_with_an_id_twice(place: Path) -> None:
    write_questions(place, [*QUESTIONS, QUESTIONS[1]])
    error = refused(place)
    assert (error["place"], error["message"]) == ("row 4", "the id `q1` stands in row 2 too")


def test_a_checkpoint_without_a_tokenizer(place: Path) -> None:
    (place / "model/tokenizer.json").unlink()
    error = refused(place)
    assert "has no tokenizer" in error["message"] and error["place"] == "$.model.name"
    done = jobspec(
        "eval", "--checkpoint", "./model", "--set", "eval.max_gen_toks=8", cwd=place, code=1
    )
    assert "has no tokenizer" in done.stderr


def test_a_context_too_short_for_the_answers(place: Path) -> None:
    error = refused(place, max_gen_toks=4096)
    assert error["place"] == "$.eval.max_gen_toks" and "4096 tokens" in error["message"]
    jobspec("validate", write_spec(place, max_gen_toks=4000), cwd=place)


def test_a_benchmark_that_is_nowhere_yet_names_the_command_that_fetches_it(place: Path) -> None:
    done = jobspec("validate", write_spec(place, benchmarks=["aime24"]), cwd=place)
    assert "aime24: no file here" in done.stderr and "`jobspec fetch SPEC…`" in done.stderr
    # Its file in the root's cache, as fetch leaves it, is enough.
    (place / "r/cache/benchmarks").mkdir(parents=True)
    rows = (place / "bench/aime_mine.jsonl").read_bytes()
    (place / "r/cache/benchmarks/aime24.jsonl").write_bytes(rows)
    spec = write_spec(place, benchmarks=["aime24"])
    assert "warning" not in jobspec("validate", spec, "--root", "r", cwd=place).stderr
