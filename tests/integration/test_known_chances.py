"""A mock engine with known probabilities of being right, from the spec file to `results --json`.

Only the engine is a mock. The commands run in this process and so does the worker, whose child
process is replaced by a call of the eval phase; so two hundred jobs take a minute.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobspec.cli import cli
from jobspec.queue.queue import Queue
from jobspec.records import exit_codes
from jobspec.records.evaluation import Generation
from jobspec.records.phases import EVAL
from jobspec.spec import identity
from tests.support.evaluations import aime_file
from tests.support.models import model_dir
from tests.support.paths import fast_dir
from tests.support.specs import job_spec
from worker import phase
from worker.evaluation import evaluate
from worker.host import preflight
from worker.host.devices import WorkerDevices
from worker.inference.engine import EngineChoice
from worker.inference.requests import SampleChunk, SampleRequest
from worker.supervisor import attempt
from worker.supervisor.worker import Worker, WorkerOptions

REPEATS = 200


class MockEngine:
    """Answers a question rightly with the probability that is a part of its id."""

    method = "draws from known probabilities"

    def run(self, chunks: Iterator[SampleChunk]) -> Iterator[tuple[SampleChunk, list[Generation]]]:
        for chunk in chunks:
            yield chunk, [self._answer(request) for request in chunk.requests]

    def close(self) -> None: ...

    def _answer(self, request: SampleRequest) -> Generation:
        number, chance = request.question.split(":")
        right = random.Random(request.seed).random() < float(chance)
        return Generation(
            question=request.question,
            sample=request.sample,
            seed=request.seed,
            text=f"so \\boxed{{{int(number) if right else 999}}}",
            tokens=10,
            finish="stop",
        )


class PhaseInThisProcess:
    """In place of a child process."""

    def __init__(self, command: list[str], env: Mapping[str, str], log: Path) -> None:
        log.touch()
        self._code = phase.guard(phase.Phase(EVAL, command[-1]), evaluate.evaluate)
        self.wall_s = 0.1

    def wait(self, timeout_s: float) -> int:
        return self._code

    def kill(self) -> None: ...


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(attempt, "Child", PhaseInThisProcess)
    monkeypatch.setattr(preflight, "wrong_versions", list)
    monkeypatch.setattr(EngineChoice, "load", lambda *_, **__: MockEngine())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with fast_dir() as path:
        yield path


def jobspec(root: Path, *args: str | Path) -> str:
    """What a command prints."""
    done = CliRunner().invoke(cli, ["--root", str(root), *map(str, args)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def score_many(place: Path, chances: list[list[float]], **settings: Any) -> list[dict[str, Any]]:
    """The score of a job for each list of chances, which are those of its questions."""
    root, model = place / "root", model_dir(place / "model")
    specs: list[Path] = []
    for number, each in enumerate(chances):
        rows = [
            {"id": f"{i + 1}:{chance:.6f}", "problem": f"Number {i + 1}?", "answer": i + 1}
            for i, chance in enumerate(each)
        ]
        where = aime_file(place / f"bench-{number}", rows)
        fields = {"benchmarks": ["aime_test"], "benchmark_dir": str(where), "max_gen_toks": 16}
        spec = job_spec(model, name=f"job-{number}", eval=fields | settings)
        specs.append(place / f"{number}.json")
        specs[-1].write_bytes(identity.canonical(spec))
    jobspec(root, "enqueue", *specs)
    code = Worker(Queue(root), WorkerOptions(drain=True, poll=True), WorkerDevices(1)).run()
    assert code == exit_codes.DONE
    rows = json.loads(jobspec(root, "results", "--json"))["results"]
    by_name = {row["name"]: row["scores"]["aime_test"] for row in rows}
    return [by_name[f"job-{number}"] for number in range(len(chances))]


def test_intervals_have_their_nominal_coverage(place: Path) -> None:
    draw = random.Random(7)
    chances = [[draw.betavariate(0.6, 0.6) for _ in range(30)] for _ in range(REPEATS)]
    scores = score_many(place, chances, avg_k=4)
    over_questions = over_samples = 0
    for each, score in zip(chances, scores, strict=True):
        over_questions += score["low"] <= 0.5 <= score["high"]  # the mean of all questions
        over_samples += score["sampling_low"] <= math.fsum(each) / 30 <= score["sampling_high"]
        assert (score["k"], score["k_at_most"], score["samples_saved"]) == (4, None, None)
    # Of 200 intervals of 95 %, between 182 and 198 hold the truth in 99.6 % of cases.
    assert 182 <= over_questions <= 198
    assert 182 <= over_samples <= 198


def test_the_stop_rule_keeps_its_error_rate_and_saves_samples(place: Path) -> None:
    draw = random.Random(8)
    chances = [[draw.betavariate(0.6, 0.6) for _ in range(8)] for _ in range(REPEATS)]
    rule = {"aime_test": {"stop_rule": {"half_width": 0.12}}}
    scores = score_many(place, chances, avg_k=40, stop_rule={"half_width": 0.4}, overrides=rule)
    missed, bias, saved = 0, 0.0, 0
    for each, score in zip(chances, scores, strict=True):
        truth = math.fsum(each) / 8
        missed += not score["sampling_low"] <= truth <= score["sampling_high"]
        bias += (score["value"] - truth) / REPEATS
        saved += score["samples_saved"]
        assert score["metric"] == f"avg_at_{score['k']}"
        assert score["k"] == 40 or score["sampling_high"] - score["sampling_low"] <= 0.24
        assert score["samples_saved"] == (40 - score["k"]) * 8
        assert score["tokens_saved"] == score["samples_saved"] * 10
    assert missed <= 20  # 10 are allowed on average; 20 is the 99.9 % quantile
    assert abs(bias) < 0.012  # three standard errors of the mean of 200 scores
    assert saved > 0.5 * 40 * 8 * REPEATS
