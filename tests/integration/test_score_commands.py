"""From `jobspec eval` to `jobspec compare`: the real commands, a real worker, a trained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobspec.queue.queue import Queue
from jobspec.storage.layout import AttemptPaths
from tests.support.bundles import differences
from tests.support.commands import jobspec, jobspec_json
from tests.support.evaluations import aime_file, questions, read_lines
from tests.support.models import stories_model
from tests.support.paths import needs_data
from tests.support.queues import queue_at
from tests.support.workers import drain

pytestmark = needs_data
SETTINGS = {"avg_k": 4, "max_gen_toks": 16, "temperature": 1.0}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Queue:
    """Two evaluations of one model, one calibration, and one without its benchmark; all ended."""
    place = tmp_path_factory.mktemp("scores")
    queue = queue_at(place)
    model = stories_model(place / "stories")
    bench = aime_file(place / "bench", questions(6))
    eval_ = ["eval", "--checkpoint", model, "--root", queue.paths.root]
    given = [f"--set=eval.{name}={value}" for name, value in SETTINGS.items()]
    given += ["--benchmarks", "aime_test", f"--set=eval.benchmark_dir={bench}"]
    for name in ("before", "after"):
        jobspec(*eval_, *given, "--name", name)
    jobspec(*eval_, "--benchmarks", "aime24", "--set=eval.max_gen_toks=16", "--name", "unfetched")
    calibrate(queue)
    drain(queue)
    return queue


def calibrate(queue: Queue) -> Any:
    place = queue.paths.root.parent
    theirs = {"score": 0.0, "k": 4, "questions": 6, "max_gen_toks": SETTINGS["max_gen_toks"]}
    entry = {"model": "tiny/stories", "variant": "plain", "by": "us", "source": "nowhere"}
    entry |= {"eval": {"temperature": 1.0, "top_p": 0.95}, "scores": {"aime_test": theirs}}
    numbers = place / "numbers.json"
    numbers.write_text(json.dumps({"entries": [entry]}))
    return jobspec_json(
        "calibrate", "--all", "--published", numbers, "--at", place / "stories",
        "--set", f"eval.benchmark_dir={place / 'bench'}", "--root", queue.paths.root,
    )  # fmt: skip


def make_right(queue: Queue, name: str, count: int) -> None:
    """Let the first `count` questions of a finished job be answered rightly in all samples."""
    place = queue.job(name).paths.attempt(1).eval / "aime_test"
    answers = {row["id"]: row["answer"] for row in read_lines(place / "questions.jsonl")[:count]}
    for chunk in place.glob("generations-*.jsonl"):
        rows = read_lines(chunk)
        for row in rows:
            if row["question"] in answers:
                text = f"It is \\boxed{{{answers[row['question']]}}}."
                row |= {"text": text, "finish": "stop"}
        chunk.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_by_an_older_reader(attempt: AttemptPaths) -> None:
    """Let the records of an attempt state another reader of answers."""
    for path in (attempt.done("eval"), attempt.result, attempt.eval / "aime_test" / "plan.json"):
        record = json.loads(path.read_bytes())
        protocol = record["protocol"]
        protocol.get("aime_test", protocol)["answer_reader"] = 1
        path.write_text(json.dumps(record))


def test_rescore_then_compare_and_read_the_samples(scored: Queue, tmp_path: Path) -> None:
    root = scored.paths.root
    (row,) = jobspec_json("compare", "before", "after", "--root", root)["benchmarks"]
    assert row["difference"]["questions"] == 6 and row["differs"] == []
    assert jobspec("rescore", "before", "--root", root).stdout == "", "nothing has changed"
    make_right(scored, "after", 4)
    attempt = scored.job("after").paths.attempt(1)
    read_by_an_older_reader(attempt)
    done = jobspec("rescore", "after", "--root", root)
    assert "bench/aime_test/avg_at_4  0 → 0.666667" in done.stdout
    result = json.loads(attempt.result.read_bytes())
    assert result["protocol"] == json.loads(attempt.done("eval").read_bytes())["protocol"]
    assert result["protocol"]["aime_test"]["answer_reader"] != 1
    assert differences(scored.job("after"), tmp_path) == []
    (row,) = jobspec_json("compare", "before", "after", "--root", root)["benchmarks"]
    found = row["difference"]
    assert found["mean"] == pytest.approx(4 / 6) and found["beyond_noise"] is True
    wrong = jobspec_json("samples", "after", "--wrong", "--root", root)
    assert wrong["total"] == 2 * 4
    right = jobspec("samples", "after", "--question", "q0", "--limit", "1", "--root", root)
    assert "What is the 0th number?" in right.stdout and "answered 1" in right.stdout
    assert "It is \\boxed{1}." in right.stdout


def test_rescore_says_what_is_missing(scored: Queue) -> None:
    root = scored.paths.root
    done = jobspec("rescore", "unfetched", "--root", root, code=1)
    assert "has no samples" in done.stderr and "hint: " in done.stderr
    bare = {"JOBSPEC_WORKER_COMMAND": "/nowhere/python"}
    assert "can't be run" in jobspec("rescore", "before", "--root", root, code=1, **bare).stderr


def test_calibrate_reads_what_its_first_call_enqueued(scored: Queue) -> None:
    printed = calibrate(scored)
    assert [job["state"] for job in printed["jobs"]] == ["succeeded"]
    (row,) = printed["rows"]
    assert (row["benchmark"], row["published"], row["differs"]) == ("aime_test", 0.0, [])
    assert row["ours"] == row["difference"] == 0.0 and row["within"] is True


def test_a_benchmark_out_of_reach_fails_with_the_command_that_fetches_it(scored: Queue) -> None:
    job = scored.job("unfetched")
    assert job.state == "failed" and job.end is not None
    assert "jobspec fetch SPEC…" in (job.end.hint or "")
    assert "jobspec fetch SPEC…" in jobspec("show", "unfetched", "--root", scored.paths.root).stdout


def test_a_measured_speed_becomes_hours(scored: Queue) -> None:
    root, place = scored.paths.root, scored.paths.root.parent
    done = jobspec_json(
        "eval", "--checkpoint", place / "stories", "--benchmarks", "aime_test", "--name", "next",
        "--set", f"eval.benchmark_dir={place / 'bench'}", "--set", "eval.max_gen_toks=16",
        "--root", root,
    )  # fmt: skip
    scoring = done["scoring"]
    assert scoring["tokens_at_most"] == 6 * 32 * 16
    assert 0 < scoring["typical_tokens"] <= scoring["tokens_at_most"]
    assert scoring["tokens_per_second"] > 0 and scoring["typical_hours"] > 0
