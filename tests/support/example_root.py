"""A root as a group has one: two models, learning rates, scores by epoch, a failure, one running.

Made of the files that workers leave, so that what reads them has something to show.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from jobspec.queue.claim import Claim
from jobspec.queue.queue import Queue
from jobspec.records.attempt import PhaseTime, Result
from jobspec.records.base import UNSET, Reason
from jobspec.records.evaluation import (
    AskedQuestion,
    Generation,
    QuestionScore,
    SampleScore,
    SamplingPlan,
    to_lines,
)
from jobspec.records.reports import TrainReport
from jobspec.storage.layout import AttemptPaths, EvaluationPaths
from tests.support.queues import WORKER, claim_next, ended, enqueue_and_claim, fail, report_progress
from tests.support.specs import base_spec, tuned_spec

MODELS = ("Qwen/Qwen3-8B", "allenai/Olmo-3-7B-Think")
RATES = (5e-6, 1e-5, 2e-5)
EPOCHS = 8
QUESTIONS = 12  # with samples
_MANIFEST = {
    "host": "gpu012",
    "worker": WORKER,
    "python": "3.11.7",
    "packages": {"torch": "2.13.0", "transformers": "5.19.0", "trl": "1.16.0"},
    "code": {"commit": "12577e553c2923d28e25adc23379f0c0c6351ab2", "dirty": False},
    "device": {"kind": "cuda", "name": "NVIDIA H100", "count": 8},
    "plan": {"nodes": 1, "world_size": 8},
}


def group(queue: Queue, models: tuple[str, ...] = MODELS, steps: int = 400, text: str = "") -> None:
    """Fill an empty root. `text` is at the end of each response."""
    for number, model in enumerate(models):
        _finish(enqueue_and_claim(queue, base_spec(model)), _scores(0.55 + 0.05 * number), 0, text)
        for rate in RATES:
            good = 0.62 + 0.05 * number - abs(math.log10(rate / 1e-5)) / 10
            claim = enqueue_and_claim(queue, tuned_spec(model, rate))
            _train(claim, steps, rate)
            _finish(claim, _scores(good), EPOCHS, text)
    fail(queue, tuned_spec("allenai/Olmo-3-7B-Instruct"), "row 17: no final turn", "look at it")
    claim = enqueue_and_claim(queue, tuned_spec("allenai/Olmo-3-7B-Instruct", 5e-6))
    _train(claim, steps // 2, 5e-6)
    claim.end(ended(Reason.NODE, step=steps // 2, message="GPU 3 fell off the bus"))
    claim.requeue("node")
    again = claim_next(queue)
    _train(again, steps // 2, 5e-6, first=steps // 4, resumed=1)
    report_progress(again, 60, loss=0.41)


def _train(claim: Claim, steps: int, rate: float, first: int = 0, resumed: int = 0) -> None:
    rows: list[dict[str, Any]] = []
    if resumed:
        rows.append({"step": first, "resumed_from": {"attempt": resumed, "step": first}})
    for step in range(first + 1, first + steps + 1):
        epoch = EPOCHS * step / 400
        loss = 0.3 + 1.2 * math.exp(-step * rate * 1500) + 0.05 * math.sin(step)
        rows.append(
            {
                "step": step,
                "epoch": epoch,
                "loss": loss,
                "num_tokens": 32_768 * step,
                "learning_rate": rate * min(1.0, step / 12),
                "grad_norm": 1.4 / (1 + step / 60),
                "tokens_per_second": 5210.0,
                "mfu": 0.41,
                "peak_memory_gib": 61.5,
            }
        )
        if step % 50 == 0:
            rows.append({"step": step, "epoch": epoch, "eval_loss": loss + 0.1})
    lines = [
        msgspec.json.encode({"attempt": claim.attempt, "seq": n, "phase": "train"} | _at(n) | row)
        for n, row in enumerate(rows)
    ]
    claim.dir.metrics.write_bytes(b"\n".join(lines) + b'\n{"torn')
    claim.dir.manifest.write_bytes(msgspec.json.encode(_MANIFEST))
    bar = "\r".join(f"{percent} %" for percent in range(0, 101, 10))
    claim.dir.log("train").write_text(
        f"\x1b[32mloaded 8 shards\x1b[0m\n{bar}\nsaved step {steps}\n"
    )


def _at(second: int) -> dict[str, str]:
    return {"time": f"2026-11-22T10:{second // 60 % 60:02d}:{second % 60:02d}.000000Z"}


def _finish(claim: Claim, metrics: dict[str, float | None], epochs: int, text: str) -> None:
    if not claim.dir.manifest.exists():
        claim.dir.manifest.write_bytes(msgspec.json.encode(_MANIFEST))
    aime: Any = metrics["bench/aime24/avg_at_32"]
    curve = [
        {"name": f"epoch-{epoch}", "epoch": epoch,
         "metrics": metrics | {"bench/aime24/avg_at_32": aime * (0.8 + 0.2 * epoch / epochs)}}
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip
    claim.dir.done("eval").write_bytes(msgspec.json.encode({"checkpoints": curve}))
    claim.dir.done("train").write_bytes(b"{}")
    answer_questions(claim.dir, right=round(aime * QUESTIONS), text=text)
    phases = (PhaseTime(phase="train", wall_s=5400.0), PhaseTime(phase="eval", wall_s=1800.0))
    claim.end(msgspec.structs.replace(ended(Reason.SUCCEEDED), phases=phases, wall_s=7210.0))
    protocol: dict[str, Any] = {
        "aime24": {"questions": 30, "k": 32, "protocol": "published", "prompt_sha256": "ab" * 32},
        "minerva_math500": {"questions": 500, "k": 1, "protocol": "published"},
    }
    train = (
        TrainReport(eval_loss=1.25 - aime, loss=1.1 - aime, tokens=13_107_200) if epochs else UNSET
    )
    claim.finish(
        "succeeded",
        Result(
            job=claim.job, attempt=claim.attempt, metrics=metrics, protocol=protocol, train=train
        ),
    )  # fmt: skip


def answer_questions(attempt: AttemptPaths, right: int, text: str = "") -> None:
    """Write the samples of a benchmark: two of each question, the first `right` questions right.

    Args:
        text: at the end of each response.
    """
    paths = EvaluationPaths(attempt.eval / "aime24")
    paths.dir.mkdir(parents=True, exist_ok=True)
    plan = SamplingPlan(key="0", benchmark="aime24", k=2, chunks=1)
    asked: list[AskedQuestion] = []
    drawn: list[Generation] = []
    scores: list[QuestionScore] = []
    for n in range(QUESTIONS):
        name, answer = f"2024-I-{n + 1}", str(100 + n)
        said = answer if n < right else "7"
        asked.append(AskedQuestion(id=name, answer=answer, prompt=f"Find the {n + 1}th number."))
        response = f"<think>Let me count to {said}.</think>The answer is \\boxed{{{said}}}.{text}"
        drawn += [
            Generation(question=name, sample=k, seed=k, text=response, tokens=40, finish="stop")
            for k in range(2)
        ]
        judged = [
            SampleScore(
                sample=k, right=n < right, answer=said, tokens=40, truncated=False, unclosed=False,
                rule="boxed", read=said,
            )
            for k in range(2)
        ]  # fmt: skip
        scores.append(QuestionScore(id=name, answer=answer, samples=tuple(judged)))
    paths.plan.write_bytes(msgspec.json.encode(plan))
    paths.questions.write_bytes(to_lines(asked))
    paths.generations(0).write_bytes(to_lines(drawn))
    paths.scores.write_bytes(to_lines(scores))


def _scores(aime: float) -> dict[str, float | None]:
    return {
        "bench/minerva_math500/math_verify": 0.5 + aime / 1.5,
        "bench/minerva_math500/stderr": 0.009,
        "bench/minerva_math500/mean_response_tokens": 3120.0,
        "bench/minerva_math500/truncated_frac": 0.02,
        "bench/aime24/avg_at_32": aime,
        "bench/aime24/stderr": 0.061,
        "bench/aime24/sampling_stderr": 0.012,
        "bench/aime24/truncated_frac": 0.3 * (0.8 - aime),
        "bench/aime24/mean_response_tokens": 14000 + 9000 * aime,
    }


def make(root: Path) -> Queue:
    """A new root with all of it."""
    queue = Queue.create(root)
    group(queue)
    return queue
