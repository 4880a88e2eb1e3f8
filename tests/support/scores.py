"""Evaluations with known scores, as the eval phase writes them, for tests of their readers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records import evaluation
from jobspec.records.evaluation import (
    AskedQuestion,
    Generation,
    QuestionScore,
    SampleScore,
    SamplingPlan,
)
from jobspec.records.reports import ScoringProtocol
from jobspec.storage.layout import EvaluationPaths
from tests.support.queues import succeed
from tests.support.specs import base_spec

PROTOCOL: dict[str, Any] = {
    "protocol": "published",
    "shots": 0,
    "temperature": 0.6,
    "top_p": 0.95,
    "top_k": None,
    "min_p": None,
    "presence_penalty": None,
    "max_gen_toks": 32768,
    "chat_template_kwargs": {},
    "prompt_sha256": "a" * 64,
    "benchmark_sha256": "b" * 64,
}


def write_evaluation(directory: Path, right: Mapping[str, Sequence[bool]], **protocol: Any) -> None:
    """One benchmark's files: question `q1` is asked `What is q1?`, its answer is 7."""
    directory.mkdir(parents=True)
    k = len(next(iter(right.values())))
    facts = PROTOCOL | {"k": k, "questions": len(right)} | protocol
    protocol_record = msgspec.convert(facts, ScoringProtocol)
    plan = SamplingPlan(key="k", benchmark=directory.name, k=k, chunks=1, protocol=protocol_record)
    asked = [
        AskedQuestion(id=name, answer="7", prompt=f"user: What is {name}?\n") for name in right
    ]
    drawn = [
        Generation(
            question=name, sample=i, seed=i, tokens=100 + i,
            text=f"thought {i} \x1b[31m\\boxed{{{7 if ok else 8}}}", finish="stop",
        )
        for name, outcomes in right.items()
        for i, ok in enumerate(outcomes)
    ]  # fmt: skip
    scores = [
        QuestionScore(id=name, answer="7", samples=tuple(map(_sample_score, range(k), outcomes)))
        for name, outcomes in right.items()
    ]
    (EvaluationPaths(directory).plan).write_bytes(msgspec.json.encode(plan))
    (EvaluationPaths(directory).questions).write_bytes(evaluation.to_lines(asked))
    (EvaluationPaths(directory).generations(0)).write_bytes(evaluation.to_lines(drawn))
    (EvaluationPaths(directory).scores).write_bytes(evaluation.to_lines(scores))


def _sample_score(index: int, right: bool) -> SampleScore:
    return SampleScore(
        sample=index,
        right=right,
        answer="7" if right else "8",
        tokens=100 + index,
        truncated=False,
        unclosed=False,
        rule="box",
        read="7" if right else "8\\text{ ways}",
    )


def scored_job(
    queue: Queue,
    name: str,
    right: Mapping[str, Mapping[str, Sequence[bool]]],
    model: str = "Qwen/Qwen3-8B",
    **protocol: Any,
) -> Job:
    """A succeeded job with the outcomes of each benchmark, and 2,000 tokens a second."""
    job = succeed(queue, base_spec(model, name=name), {})
    attempt = job.paths.attempt(1)
    for benchmark, outcomes in right.items():
        write_evaluation(attempt.eval / benchmark, outcomes, **protocol)
    metrics = {f"bench/{benchmark}/mean_response_tokens": 1000.0 for benchmark in right}
    summary = {"metrics": metrics, "timing": {"tokens": 8000, "generate_s": 4.0}}
    attempt.done("eval").write_text(json.dumps(summary))
    return job
