"""Every reason for which an attempt ends, in the words of `status` and `show`."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobspec.monitoring import reasons
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records.base import Reason, State
from tests.support.commands import jobspec, jobspec_json
from tests.support.queues import WORKER, claim_next, ended
from tests.support.specs import base_spec


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    queue = Queue.create(tmp_path / "root")
    queue.enqueue(base_spec())
    return queue


def lose(queue: Queue, *reasons: str, **facts: str) -> Job:
    """Claim the one job again and again, and lose it for each of these reasons."""
    for reason in reasons:
        claim = claim_next(queue)
        if reason == "lost":
            queue.reap(worker=WORKER, now=True)
        elif reason == "cancelled":
            queue.cancel(claim.job)
        else:
            claim.end(ended(Reason(reason), phase="train", **facts))
            claim.requeue(reason)
    return queue.jobs()[0]


def status_note(queue: Queue) -> list[str]:
    """What stands below the job's line in `status`, each note on a line, without the host."""
    shown = jobspec("status", "--root", queue.paths.root).stdout.replace(" on gpu012", "")
    lines = shown.replace("\n    ", " ").splitlines()
    return [line.strip() for line in lines if line.startswith("  ")]


def before(reason: str, count: int) -> str:
    """The note on the attempts before the last one of a failed job."""
    words = [f"{number}: {reason}" for number in range(1, count + 1)]
    return f"└ before: {', '.join(words)}"


def shown(queue: Queue, fact: str) -> str:
    """One fact of `show`, as it stands there."""
    lines = jobspec("show", queue.jobs()[0].id, "--root", queue.paths.root).stdout.splitlines()
    return next((line.split(maxsplit=1)[1] for line in lines if line.split()[:1] == [fact]), "")


CAME_BACK = [
    (("lost",), "└ attempt 1: its worker was lost (1 of 5)"),
    (("lost", "node", "lost"),
     "└ attempts 1: its worker was lost, 2: bad node, 3: its worker was lost (2 of 5)"),
    (("node",), "└ attempt 1: bad node (1 of 5)"),
    (("oom",), "└ attempt 1: out of memory (1 of 2)"),
    (("failed",), "└ attempt 1: failed (1 of 2)"),
    (("disk", "disk"), "└ attempts 1: disk full, 2: disk full"),
    (("preempted",), "└ attempt 1: preempted (1 of 3 in a row without progress)"),
    (("preempted", "walltime"),
     "└ attempts 1: preempted, 2: out of wall time (2 of 3 in a row without progress)"),
    (("walltime", "lost", "preempted"),
     "└ attempts 1: out of wall time, 2: its worker was lost, "
     "3: preempted (1 of 3 in a row without progress)"),
]  # fmt: skip


@pytest.mark.parametrize(("reasons", "note"), CAME_BACK)
def test_why_a_job_came_back(queue: Queue, reasons: tuple[str, ...], note: str) -> None:
    job = lose(queue, *reasons)
    assert job.state is State.PENDING
    assert status_note(queue) == [note]
    claim_next(queue)  # and while it runs again
    assert status_note(queue) == [note]


ENDED = [
    (("lost",) * 5, ["└ its worker was lost (5 of 5)", before("its worker was lost", 4)]),
    (("node",) * 5, ["└ bad node (5 of 5): no GPU answers", "└ hint: tell the staff",
                     before("bad node", 4)]),
    (("oom",) * 2, ["└ out of memory (2 of 2): no GPU answers", "└ hint: tell the staff",
                    before("out of memory", 1)]),
    (("failed",) * 2, ["└ failed (2 of 2): no GPU answers", "└ hint: tell the staff",
                       before("failed", 1)]),
    (("walltime",) * 3, ["└ no progress in three attempts: no GPU answers",
                         "└ hint: tell the staff", before("out of wall time", 2)]),
    (("preempted",) * 3, ["└ no progress in three attempts: no GPU answers",
                          "└ hint: tell the staff", before("preempted", 2)]),
    (("corrupt",), ["└ spec damaged: no GPU answers", "└ hint: tell the staff"]),
]  # fmt: skip


@pytest.mark.parametrize(("reasons", "notes"), ENDED)
def test_why_a_job_failed(queue: Queue, reasons: tuple[str, ...], notes: list[str]) -> None:
    job = lose(queue, *reasons, message="no GPU answers", hint="tell the staff")
    assert job.state is State.FAILED
    assert status_note(queue) == notes


def test_a_failure_that_is_not_tried_again_counts_nothing(queue: Queue) -> None:
    claim = claim_next(queue)
    claim.end(ended(Reason.FAILED, message="the loss is NaN at step 7", phase="train", step=7))
    claim.finish("failed")
    assert status_note(queue) == ["└ failed: the loss is NaN at step 7"]
    row = jobspec_json("status", "--root", queue.paths.root)["jobs"][0]
    assert (row["reason"], row["reason_count"], row["reason_limit"]) == ("failed", 1, 2)


def test_a_cancelled_job_is_cancelled_everywhere(queue: Queue) -> None:
    lose(queue, "cancelled")
    assert status_note(queue) == []
    assert "cancelled" in jobspec("status", "--root", queue.paths.root).stdout
    assert shown(queue, "1").split()[0] == "cancelled"  # the attempt's line
    assert jobspec_json("status", "--root", queue.paths.root)["jobs"][0]["reason"] == "cancelled"


def test_a_retry_forgets_what_was_lost(queue: Queue) -> None:
    job = lose(queue, "oom", "oom")
    queue.retry(job.id)
    assert status_note(queue) == []
    assert shown(queue, "losses") == ""


def test_show_adds_up_what_was_lost(queue: Queue) -> None:
    job = lose(queue, "lost", "disk", "node", "walltime", "lost")
    assert shown(queue, "losses") == (
        "disk full, bad node (1 of 5), out of wall time, its worker was lost (2 of 5)"
    )
    told = jobspec_json("show", job.id, "--root", queue.paths.root)
    assert told["losses"][-1] == {"reason": "lost", "count": 2, "limit": 5}
    assert told["job"]["reason_count"] == 2
    attempts = [line.split("  ")[0] for line in show_attempts(queue)]
    assert attempts == ["its worker was lost", "disk full", "bad node", "out of wall time",
                        "its worker was lost"]  # fmt: skip


def show_attempts(queue: Queue) -> list[str]:
    """The attempts' lines of `show`, without their numbers."""
    lines = jobspec("show", queue.jobs()[0].id, "--root", queue.paths.root).stdout.splitlines()
    return [line.lstrip("0123456789 ") for line in lines if line[:1].isdigit()]


def test_a_success_after_losses_tells_of_them_in_show_alone(queue: Queue) -> None:
    lose(queue, "lost")
    claim = claim_next(queue)
    claim.end(ended(Reason.SUCCEEDED))
    claim.finish("succeeded", {"metrics": {}})
    assert status_note(queue) == []
    assert shown(queue, "losses") == "its worker was lost (1 of 5)"


def test_every_reason_has_words() -> None:
    assert reasons.REASONS.keys() == {reason.value for reason in Reason}
    assert all(reasons.why(reason) for reason in Reason)
    assert reasons.why("of a later version") == "of a later version"
