"""Jobs whose attempts have times and energy, as workers leave them."""

from __future__ import annotations

import msgspec

from jobspec.queue.claim import Claim
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records.attempt import Energy, PhaseTime, Result
from jobspec.records.base import UNSET, Reason
from jobspec.records.reports import EvalReport, ScoringProtocol, TrainReport
from tests.support.queues import claim_next, ended, enqueue_and_claim, scores
from tests.support.specs import tuned_spec

KWH = 3.6e6
FOUR_GPUS = b'{"device": {"kind": "cuda", "count": 4}, "plan": {}}'


def finish(claim: Claim, *, energy: Energy | None, trains: bool = True) -> None:
    """An hour of training and half of an evaluation, on four GPUs."""
    claim.dir.manifest.write_bytes(FOUR_GPUS)
    train = PhaseTime(phase="train", wall_s=3600, energy=energy)
    evaluation = PhaseTime(phase="eval", wall_s=1800, energy=energy)
    phases = (train, evaluation) if trains else (evaluation,)
    for each in phases:
        claim.dir.done(each.phase).write_bytes(msgspec.json.encode(EvalReport()))
    end = msgspec.structs.replace(
        ended(Reason.SUCCEEDED),
        phases=phases,
        overhead_s=30,
        wall_s=sum(p.wall_s for p in phases) + 30,
    )
    claim.end(end)
    result = Result(
        job=claim.job,
        attempt=claim.attempt,
        metrics=scores(0.9, 0.5),
        train=TrainReport(trained_tokens=1_000_000) if trains else UNSET,
        protocol={"aime24": ScoringProtocol(k=32, questions=30)},
    )
    claim.dir.result.write_bytes(msgspec.json.encode(result))
    claim.finish("succeeded", result)


def interrupted_then_finished(
    queue: Queue, energy: Energy | None, name: str = "qwen3-8b-lr1e-5"
) -> Job:
    """An attempt whose quarter of an hour of training was lost, and the one that ended the job."""
    claim = enqueue_and_claim(queue, tuned_spec(name=name))
    claim.dir.manifest.write_bytes(FOUR_GPUS)
    lost = (PhaseTime(phase="train", wall_s=900, energy=energy),)
    end = msgspec.structs.replace(ended(Reason.NODE), phases=lost, overhead_s=0, wall_s=900)
    claim.end(end)
    claim.requeue("node")
    finish(claim_next(queue), energy=energy)
    return queue.job(claim.job)
