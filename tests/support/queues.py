"""Builds queues, and jobs in each of their states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobspec.queue.claim import Claim
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import ClaimRecord, End, PhaseTime, Progress, Result
from jobspec.records.base import Reason, State
from jobspec.records.worker import WorkerRecord
from jobspec.spec import identity
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, JobPaths
from tests.support.specs import base_spec

WORKER = "gpu012-4711-3-0123456789abcdef"
W, V = "node1-00000000000000aa", "node2-00000000000000bb"  # two workers


def queue_at(directory: Path, *, lease_s: float = 5.0, heartbeat_s: float | None = None) -> Queue:
    """A queue whose leases are short, so that the death of a worker or a relay is noticed soon.

    Args:
        directory: the queue is created in its `root`.
        heartbeat_s: a tenth of the lease unless given.
    """
    directory.mkdir(exist_ok=True)
    heartbeat_s = lease_s / 10 if heartbeat_s is None else heartbeat_s
    return Queue.create(directory / "root", heartbeat_s=heartbeat_s, lease_s=lease_s)


def entries(queue: Queue) -> dict[str, list[str]]:
    """For each job, the states in which it has an entry, read from file names."""
    states: dict[str, list[str]] = {}
    for state in State:
        for path in sorted(queue.paths.state(state).iterdir()):
            if not path.name.startswith("."):
                job = path.name[len("949-20261122T000000000000Z-") :].split(".")[0]
                states.setdefault(job, []).append(state.value)
    return states


def enqueue_and_claim(queue: Queue, spec: JobSpec, worker: str = WORKER) -> Claim:
    """Enqueue a spec and claim it for a worker that sends heartbeats."""
    job = queue.enqueue(spec, priority=900 + len(queue.jobs()))  # above all that waits
    claim = claim_next(queue, worker)
    assert claim.job == job.id
    return claim


def claim_next(queue: Queue, worker: str = WORKER) -> Claim:
    send_heartbeat(queue, worker, None)
    claim = queue.claim(worker)
    assert claim is not None
    send_heartbeat(queue, worker, claim.job)
    claimed = ClaimRecord(worker=worker, host=worker[:6], claimed_at="2026-11-22T10:00:00.000000Z")
    fs.publish(claim.dir.claim, records.encode(claimed))
    return claim


def send_heartbeat(queue: Queue, worker: str, job: str | None, **facts: Any) -> None:
    facts = {"host": worker[:6], "gpus": 8, "updated_at": records.utc_now(), **facts}
    shown = WorkerRecord(worker=worker, job=job, **facts)
    queue.heartbeat(worker, shown, job=job)


def report_progress(claim: Claim, done: float, **metrics: float) -> None:
    progress = Progress(
        phase="train", done=done, total=100, unit="steps", eta_s=7421.0, metrics=metrics
    )
    fs.replace(claim.dir.progress, records.encode(progress))


def ended(reason: Reason, **fields: Any) -> End:
    return End(
        reason=reason,
        worker=WORKER,
        host=WORKER[:6],
        started_at="2026-11-22T10:00:01.000000Z",
        ended_at="2026-11-22T11:01:00.000000Z",
        wall_s=3659.0,
        overhead_s=0.75,
        phases=(PhaseTime(phase="prepare", wall_s=12.0), PhaseTime(phase="train", wall_s=3600.0)),
        **fields,
    )


def succeed(queue: Queue, spec: JobSpec, metrics: dict[str, float | None]) -> Job:
    claim = enqueue_and_claim(queue, spec)
    claim.end(ended(Reason.SUCCEEDED))
    claim.finish("succeeded", Result(job=claim.job, attempt=claim.attempt, metrics=metrics))
    return queue.job(claim.job)


def fail(queue: Queue, spec: JobSpec, message: str, hint: str | None = None) -> Job:
    claim = enqueue_and_claim(queue, spec)
    claim.end(ended(Reason.FAILED, message=message, hint=hint, phase="prepare"))
    claim.finish("failed")
    return queue.job(claim.job)


def none_running(queue: Queue) -> None:
    """A job in every state but that one; the one that is pending came back."""
    succeed(queue, base_spec(notes="1"), scores(0.93, 0.7))
    fail(queue, base_spec("allenai/Olmo-3-7B-Think"), "row 17: no final turn", "look at row 17")
    queue.cancel(queue.enqueue(base_spec(notes="2")).id)
    claim = enqueue_and_claim(queue, base_spec(notes="3"))
    claim.end(ended(Reason.WALLTIME))
    claim.requeue("walltime")


def scores(math: float, aime: float, truncated: float = 0.01) -> dict[str, float | None]:
    """The keys of section 10 for two benchmarks, as the eval phase writes them."""
    return {
        "bench/minerva_math500/math_verify": math,
        "bench/minerva_math500/stderr": 0.008,
        "bench/minerva_math500/sampling_stderr": None,
        "bench/aime24/avg_at_32": aime,
        "bench/aime24/stderr": 0.061,
        "bench/aime24/sampling_stderr": 0.012,
        "bench/aime24/truncated_frac": truncated,
        "bench/aime24/mean_response_tokens": 9120.5,
        "bench/aime24/pass_at_32": 0.9,
        "bench/aime24/maj_at_32": 0.8,
    }


def attempt_of(root: Path, spec: JobSpec, number: int = 1) -> AttemptPaths:
    """The directory of a job's attempt, as a worker makes it, without a queue around it."""
    data = identity.canonical(spec)
    job = JobPaths(root / "jobs" / identity.job_id(spec.name, data))
    job.attempt(number).dir.mkdir(parents=True)
    job.spec.write_bytes(data)
    return job.attempt(number)
