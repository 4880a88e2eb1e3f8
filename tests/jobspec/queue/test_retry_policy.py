"""Retry budgets: how often a job is retried for each reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobspec.queue import retry_policy
from jobspec.queue.claim import Claim
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import End, PhaseTime
from jobspec.records.base import Reason, State
from jobspec.records.checkpoint import CheckpointManifest
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, CheckpointPaths
from tests.support.queues import W
from tests.support.specs import score_spec


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    queue = Queue.create(tmp_path / "root")
    queue.enqueue(score_spec())
    return queue


def claim_of(queue: Queue) -> Claim:
    claim = queue.claim(W)
    assert claim is not None
    return claim


def attempts_until_failed(queue: Queue, reason: str, work=lambda paths: None) -> int:
    """Lose attempts for this reason until the job fails. Returns their number, at most 12."""
    for count in range(1, 13):
        claim = claim_of(queue)
        work(claim.dir)
        if reason == "lost":
            queue.reap(worker=W, now=True)
        else:
            claim.requeue(reason)
        if queue.jobs()[0].state is State.FAILED:
            return count
    return 0


def save_checkpoint(paths: AttemptPaths) -> None:
    step = paths.checkpoints / f"step-{paths.number}"
    step.mkdir(parents=True)
    manifest = CheckpointManifest(attempt=paths.number, step=1, world=1, zero_stage=2)
    fs.publish(CheckpointPaths(step).manifest, records.encode(manifest))


def carry_over_checkpoints(before: AttemptPaths, after: AttemptPaths) -> None:
    before.checkpoints.rename(after.checkpoints)


@pytest.mark.parametrize(
    ("reason", "attempts", "shown"),
    [
        ("lost", 5, "lost"),
        ("node", 5, "node"),
        ("oom", 2, "oom"),
        ("failed", 2, "failed"),
        ("preempted", 3, "no_progress"),
        ("walltime", 3, "no_progress"),
        ("disk", 0, None),
        ("corrupt", 1, "corrupt"),
    ],
)
def test_each_reason_has_its_own_budget(queue: Queue, reason: str, attempts: int, shown) -> None:
    assert attempts_until_failed(queue, reason) == attempts
    if attempts:
        assert queue.jobs()[0].reason == shown


def test_other_reasons_do_not_use_up_a_budget(queue: Queue) -> None:
    for reason in ("node", "oom", "preempted", "node", "walltime", "disk", "node", "node"):
        assert claim_of(queue).requeue(reason) is State.PENDING
    assert claim_of(queue).requeue("oom") is State.FAILED
    assert queue.jobs()[0].reason is Reason.OOM


@pytest.mark.parametrize(
    "reason", ["preempted", "walltime", "lost", "node", "filesystem", "oom", "failed"]
)
def test_a_job_that_makes_progress_is_never_failed(queue: Queue, reason: str) -> None:
    assert attempts_until_failed(queue, reason, save_checkpoint) == 0


def test_a_checkpoint_counts_for_the_attempt_that_wrote_it(queue: Queue) -> None:
    """Later attempts carry a checkpoint over by renaming it into their own directory."""
    claim = claim_of(queue)
    save_checkpoint(claim.dir)
    checkpoint = claim.dir.checkpoints / "step-1"
    claim.requeue("walltime")
    for _ in range(2):
        claim = claim_of(queue)
        claim.dir.checkpoints.mkdir()
        checkpoint = checkpoint.rename(claim.dir.checkpoints / "step-1")
        assert claim.requeue("walltime") is State.PENDING
    assert claim_of(queue).requeue("walltime") is State.FAILED


@pytest.mark.parametrize(("reason", "attempts"), [("lost", 6), ("failed", 3)])
def test_failures_count_from_the_last_attempt_that_saved_a_checkpoint(
    queue: Queue, reason: str, attempts: int
) -> None:
    """A training that always fails at the same step ends, however many checkpoints it saved."""

    def resume(paths: AttemptPaths) -> None:
        if paths.number <= 2:
            save_checkpoint(paths)
        else:
            carry_over_checkpoints(queue.jobs()[0].paths.attempt(paths.number - 1), paths)

    assert attempts_until_failed(queue, reason, resume) == attempts
    job = queue.jobs()[0]
    (budget,) = retry_policy.used_budgets(job.paths, job.attempt)
    assert budget.count == budget.limit == attempts - 1


def test_a_finished_training_counts_for_the_attempt_that_finished_it(queue: Queue) -> None:
    """Its checkpoints may be deleted by then, and later attempts have a copy of its report."""

    def train(paths: AttemptPaths) -> None:
        if paths.number >= 4:
            fs.publish(paths.done("train"), b"{}")

    assert attempts_until_failed(queue, "lost", train) == 8


def test_a_checkpoint_carried_over_by_the_running_attempt_still_counts(queue: Queue) -> None:
    """Otherwise status would report attempts without progress while the next one resumes."""
    before = claim_of(queue)
    save_checkpoint(before.dir)
    before.requeue("walltime")
    paths, after = queue.jobs()[0].paths, claim_of(queue).dir
    carry_over_checkpoints(before.dir, after)
    assert [loss.count for loss in retry_policy.used_budgets(paths, after.number - 1)] == [0]


def test_an_unfinished_checkpoint_is_no_progress(queue: Queue) -> None:
    def begin(paths: AttemptPaths) -> None:
        (paths.checkpoints / "step-1").mkdir(parents=True)

    assert attempts_until_failed(queue, "walltime", begin) == 3


def test_samples_and_finished_phases_are_progress(queue: Queue) -> None:
    def sample(paths: AttemptPaths) -> None:
        fs.make_dir(paths.eval / "aime24")
        fs.append(paths.eval / "aime24" / "samples.jsonl", b"{}\n")

    assert attempts_until_failed(queue, "preempted", sample) == 0


def test_a_phase_reused_from_an_earlier_attempt_is_no_progress(queue: Queue) -> None:
    def keep(paths: AttemptPaths) -> None:
        fs.publish(paths.done("train"), b"{}")
        end = End(reason=Reason.WALLTIME, phases=(PhaseTime(phase="train", kept=True),))
        fs.publish(paths.end, records.encode(end))

    assert attempts_until_failed(queue, "walltime", keep) == 3


def test_a_torn_end_means_lost(queue: Queue) -> None:
    def tear(paths: AttemptPaths) -> None:
        paths.end.write_bytes(b'{"reason": "pree')

    assert attempts_until_failed(queue, "lost", tear) == 5


def test_a_retry_resets_every_budget(queue: Queue) -> None:
    assert attempts_until_failed(queue, "lost") == 5
    job = queue.jobs()[0]
    back = queue.retry(job.id)
    assert (back.attempt, back.reason) == (6, None)
    assert attempts_until_failed(queue, "lost") == 5
    ended = retry_policy.list_ended(job.paths, 10)
    assert [each.attempt for each in ended] == [6, 7, 8, 9, 10]


def test_an_attempt_that_said_it_finished_but_never_committed_was_lost(queue: Queue) -> None:
    claim = claim_of(queue)
    claim.end(End(reason=Reason.SUCCEEDED))  # but there is no result.json
    queue.reap(worker=W, now=True)
    job = queue.jobs()[0]
    assert (job.state, job.attempt) == ("pending", 2)
    assert [each.reason for each in retry_policy.list_ended(job.paths, 1)] == [Reason.LOST]
