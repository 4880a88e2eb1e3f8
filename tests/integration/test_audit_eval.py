"""`jobspec audit eval`: samples of a real evaluation are drawn again and compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from jobspec.errors import JobspecError
from jobspec.queue.job import Job
from jobspec.spec.schema import EvalSpec
from jobspec.storage.layout import AttemptPaths
from tests.support.commands import jobspec, jobspec_json
from tests.support.evaluations import aime_file, questions, read_lines
from tests.support.lm_eval_tasks import CHOOSES, GENERATES, task_file
from tests.support.queues import queue_at
from tests.support.specs import job_spec, with_model
from tests.support.workers import drain
from worker.audit import redraw

CHUNKS = [64, 64, 64]


@pytest.fixture(scope="module")
def scored(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Six questions with 32 samples each, in three chunks, and two tasks of lm-eval."""
    directory = tmp_path_factory.mktemp("scored")
    benchmarks = aime_file(directory / "bench", questions(6))
    task_file(benchmarks, "writes", **GENERATES)
    task_file(benchmarks, "chooses", **CHOOSES)
    settings = EvalSpec(
        benchmarks=("aime_test", "writes", "chooses"),
        benchmark_dir=str(benchmarks),
        avg_k=32,
        max_gen_toks=16,
        deterministic=True,
    )
    shutil.copytree(tiny / "model", directory / "model")
    queue = queue_at(directory)
    job = queue.enqueue(with_model(job_spec(name="scored", eval=settings), directory / "model"))
    drain(queue, "--devices", "1")
    return queue.job(job.id)


@pytest.fixture
def copied(scored: Job, tmp_path: Path) -> Job:
    """The same job in a root of its own."""
    root = tmp_path / "root"
    shutil.copytree(scored.paths.dir.parents[1], root)
    return queue_at(tmp_path).job(scored.id)


def attempt(job: Job) -> AttemptPaths:
    return job.paths.attempt(job.attempt)


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def audit(job: Job, percent: float = 1.0) -> dict[str, Any]:
    made = redraw.audit(attempt(job).dir, percent=percent, seed=0)
    return msgspec.to_builtins(made)


def refused(job: Job) -> str:
    with pytest.raises(JobspecError) as caught:
        audit(job)
    return str(caught.value)


def test_every_sample_is_the_same_again(scored: Job) -> None:
    root = scored.paths.dir.parents[1]
    made = jobspec_json("audit", "eval", scored.id, "--percent", "40", "--root", root)
    assert made["identical"] and made["deterministic"] and made["environment"] == []
    assert (made["job"], made["attempt"], made["engine"]) == (scored.id, 1, "hf")
    found = {each["name"]: (each["samples"], each["redrawn"]) for each in made["benchmarks"]}
    # Likelihoods are no samples, and 40 % of three chunks are two.
    assert found == {"aime_test": (192, 128), "writes": (4, 4)}
    assert {each["different"] for each in made["benchmarks"]} == {0}
    regraded = {each["name"]: each["regraded"] for each in made["benchmarks"]}
    assert regraded == {"aime_test": 0, "writes": None}


def change(job: Job, text: Callable[[str], str]) -> list[dict[str, Any]]:
    """Change the first sample of every chunk; returns them as they were."""
    before: list[dict[str, Any]] = []
    for number in range(len(CHUNKS)):
        file = attempt(job).eval / "aime_test" / f"generations-{number:05d}.jsonl"
        rows = read_lines(file)
        before.append(dict(rows[0]))
        rows[0]["text"] = text(rows[0]["text"])
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return before


def test_other_samples_are_counted_and_the_first_is_named(copied: Job) -> None:
    # What the model wrote may be shorter than five characters: its samples follow the job's id.
    (first, *_) = change(copied, lambda text: text[:5] + "\\boxed{1}")
    made = audit(copied, 100)
    assert not made["identical"]
    task, changed = made["benchmarks"][1], made["benchmarks"][0]
    assert (changed["name"], changed["redrawn"], changed["different"]) == ("aime_test", 192, 3)
    assert changed["first"] == {
        "question": first["question"],
        "sample": first["sample"],
        "character": min(5, len(first["text"])),
    }
    assert task["different"] == 0 and task["first"] is None
    root = copied.paths.dir.parents[1]
    shown = jobspec("audit", "eval", copied.id, "--percent", "100", "--root", root, code=1).stdout
    assert "189 of 192 the same" in shown and f"`{first['question']}`" in shown
    assert "193 of 196 samples are the same" in shown


def test_a_grade_that_changes_is_counted(copied: Job) -> None:
    rows = read_lines(attempt(copied).eval / "aime_test" / "questions.jsonl")
    answers = {row["id"]: row["answer"] for row in rows}
    file = attempt(copied).eval / "aime_test" / "generations-00000.jsonl"
    samples = read_lines(file)
    # The model's 16 tokens end by length, which is wrong whatever they say.
    samples[0] |= {"text": f"\\boxed{{{answers[samples[0]['question']]}}}", "finish": "stop"}
    samples[0] |= {"thinking": "none", "answer_start": 0}
    file.write_text("".join(json.dumps(row) + "\n" for row in samples))
    made = audit(copied, 100)
    assert (made["benchmarks"][0]["different"], made["benchmarks"][0]["regraded"]) == (1, 1)


def test_what_is_different_here_is_said(copied: Job) -> None:
    plan = attempt(copied).eval / "aime_test" / "plan.json"
    changed = json.loads(plan.read_text())
    changed["protocol"]["engine_versions"] = {"torch": "1.0", "transformers": "2.0"}
    plan.write_text(json.dumps(changed))
    (line,) = audit(copied)["environment"]
    assert line.startswith("engine versions: torch 1.0, transformers 2.0 then, torch ")


def test_a_changed_tokenizer_is_named(copied: Job) -> None:
    questions_file = attempt(copied).eval / "aime_test" / "questions.jsonl"
    rows = read_lines(questions_file)
    for row in rows:
        row["prompt_tokens"] += 1
    questions_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = refused(copied)
    assert "its tokenizer makes" in said and "in the evaluation" in said


@pytest.mark.parametrize("name", ["generations-00001.jsonl", "questions.jsonl", "plan.json"])
def test_damaged_files_are_named(copied: Job, name: str) -> None:
    file = attempt(copied).eval / "aime_test" / name
    file.write_bytes(file.read_bytes()[:-20])
    assert "aime_test" in refused(copied)


def test_a_job_that_has_not_ended_is_refused(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    job = queue.enqueue(job_spec(name="waits"))
    done = jobspec("audit", "eval", job.id, "--root", queue.paths.root, code=1)
    assert f"`{job.id}` is pending" in done.stderr
