"""How an attempt ends: commit, requeue, and what happens after the claim is lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from jobspec.errors import ClaimLost
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import End, Result
from jobspec.records.base import Reason, State
from tests.support.faulty_os import Fault, fails_with, faulty, loses_reply
from tests.support.paths import stems
from tests.support.queues import V, W, entries
from tests.support.specs import score_spec


def test_finish_leaves_result_end_and_links(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    claim.dir.final_model.mkdir()
    claim.finish("succeeded", Result(job=claim.job, attempt=1, metrics={"bench/x": 0.5}))
    now = queue.job(job.id)
    assert (now.state, now.reason) == ("succeeded", Reason.SUCCEEDED)
    assert now.end is not None and now.end.worker == W
    assert str(now.paths.result.readlink()) == "attempts/1/result.json"
    assert str(now.paths.final_model.readlink()) == "attempts/1/final_model"
    result = records.read(now.paths.result, Result)
    assert result is not None and result.metrics == {"bench/x": 0.5}
    assert claim.held() is False


def test_links_can_be_made_again(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    claim.finish("succeeded", {"metrics": {"a": 1.0}})
    job.paths.result.unlink()
    job.paths.result.symlink_to("nonsense")
    Queue(queue.paths.root).publish_links(job.id)
    assert records.read(job.paths.result, Result) is not None


def test_finish_keeps_an_end_that_was_written_before(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    claim.end(End(reason=Reason.OOM, message="needs 90 GiB", hint="use ZeRO-3"))
    claim.finish("failed")
    now = queue.job(job.id)
    assert (now.state, now.reason) == ("failed", Reason.OOM)
    assert now.end is not None and now.end.message == "needs 90 GiB"


def test_a_commit_makes_a_purged_directory_again(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    shutil.rmtree(claim.dir.dir)
    claim.finish("succeeded", {"metrics": {"a": 1.0}})
    assert records.read(job.paths.result, Result) is not None


def test_requeue_makes_the_next_attempt(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    assert claim.requeue("preempted") is State.PENDING
    now = queue.job(job.id)
    assert (now.state, now.attempt, now.reason) == ("pending", 2, Reason.PREEMPTED)
    again = queue.claim(V)
    assert again is not None and again.attempt == 2
    assert stems(job.paths.attempts) == ["1", "2"]
    assert claim.held() is False


@pytest.mark.parametrize("verb", ["finish", "requeue"])
def test_a_stopped_attempt_that_continues_is_fenced_off(queue: Queue, verb: str) -> None:
    """Attempt 1 is stopped after its last check; attempt 2 commits; attempt 1 continues."""
    job = queue.enqueue(score_spec())
    first = queue.claim(W)
    assert first is not None and first.held() is True
    first.dir.final_model.mkdir()
    queue.reap(worker=W, now=True)
    second = queue.claim(V)
    assert second is not None and second.attempt == 2
    second.dir.final_model.mkdir()
    second.finish("succeeded", {"metrics": {"a": 2.0}})
    before = {path: path.lstat().st_ino for path in queue.paths.root.rglob("*")}
    with pytest.raises(ClaimLost, match=job.id):
        if verb == "finish":
            first.finish("succeeded", {"metrics": {"a": 1.0}})
        else:
            first.requeue("walltime")
    after = {path: path.lstat().st_ino for path in queue.paths.root.rglob("*")}
    assert after == before  # not even in its own directory
    assert entries(queue) == {job.id: ["succeeded"]}
    assert str(job.paths.final_model.readlink()) == "attempts/2/final_model"
    assert json.loads(job.paths.result.read_bytes())["metrics"] == {"a": 2.0}


def test_a_cancelled_claim_is_lost_for_its_holder(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    queue.cancel(job.id)
    assert claim.held() is False
    with pytest.raises(ClaimLost):
        claim.finish("succeeded")
    assert queue.job(job.id).state is State.CANCELLED
    assert not job.paths.result.exists()


def test_a_commit_counts_even_if_its_reply_is_lost(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    claim.end(End(reason=Reason.SUCCEEDED))
    with faulty(0, loses_reply, only=frozenset({"rename"})):
        claim.finish("succeeded")
    assert entries(queue) == {job.id: ["succeeded"]}
    claim.finish("succeeded")  # calling it again changes nothing
    assert entries(queue) == {job.id: ["succeeded"]}


def claimed_by_another(queue: Queue, number: int) -> Fault:
    """The call is made and another worker claims the job before the reply, an error, arrives."""

    def fault(name: str, args: Sequence[Any], call: Callable[[], Any]) -> Any:
        call()
        assert queue.claim(V) is not None
        raise OSError(number, os.strerror(number), name)

    return fault


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO])
def test_a_job_given_back_counts_even_if_it_is_claimed_before_the_reply(
    queue: Queue, number: int
) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    claim.end(End(reason=Reason.PREEMPTED))
    lost = claimed_by_another(queue, number)
    with faulty(0, lost, only=frozenset({"rename"})), contextlib.suppress(OSError):
        assert claim.requeue("preempted") is State.PENDING
    assert claim.requeue("preempted") is State.PENDING  # calling it again changes nothing
    now = queue.job(job.id)
    assert (now.state, now.attempt, now.worker) == ("running", 2, V)
    queue.cancel(job.id)
    assert claim.requeue("preempted") is State.PENDING


@pytest.mark.parametrize("verb", ["retry", "prioritize"])
def test_a_retry_counts_even_if_the_job_is_claimed_before_the_reply(
    queue: Queue, verb: str
) -> None:
    job = queue.enqueue(score_spec())
    if verb == "retry":
        queue.cancel(job.id)
    # The retry's first rename publishes its marker.
    index = {"retry": 1, "prioritize": 0}[verb]
    with faulty(index, claimed_by_another(queue, errno.ENOENT), only=frozenset({"rename"})):
        now = queue.retry(job.id) if verb == "retry" else queue.prioritize(job.id, 70)
    assert (now.state, now.worker) == ("running", V)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EPERM])
def test_an_io_error_does_not_count_as_a_lost_claim(queue: Queue, number: int) -> None:
    queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    claim.end(End(reason=Reason.SUCCEEDED))
    for call in ("listdir", "lstat"):
        with faulty(0, fails_with(number), only=frozenset({call})) as fault:
            if call == "lstat":
                claim.entry.path(queue.paths).rename(queue.paths.root / "elsewhere")
            assert claim.held() is None
            assert fault.fired
    (queue.paths.root / "elsewhere").rename(claim.entry.path(queue.paths))
    with faulty(0, fails_with(number), only=frozenset({"rename"})), pytest.raises(OSError) as got:
        claim.finish("succeeded")
    assert got.value.errno == number
    assert claim.held() is True
    claim.finish("succeeded")


def test_a_missing_running_directory_does_not_prove_a_lost_claim(queue: Queue) -> None:
    queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    running = queue.paths.state(State.RUNNING)
    running.rename(queue.paths.root / "unmounted")
    assert claim.held() is None
    with pytest.raises(OSError):
        claim.finish("succeeded")
    (queue.paths.root / "unmounted").rename(running)
    claim.finish("succeeded")


def test_a_claim_missing_from_a_listing_but_found_by_name_is_held(queue: Queue) -> None:
    queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None

    def misses(name: str, args: object, call: object) -> list[str]:
        return []

    with faulty(0, misses, only=frozenset({"listdir"})):
        assert claim.held() is True
