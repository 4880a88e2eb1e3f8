"""What the relay makes of a job's files and records before it sends, without W&B."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.errors import JobspecError
from jobspec.queue.queue import Queue
from jobspec.records.base import Reason
from jobspec.relay import tracked_run
from jobspec.relay.cursor import Cursor, Cursors, SentRows, target
from jobspec.relay.reader import Reader
from jobspec.relay.tracked_run import HistoryRow
from jobspec.relay.verify import compare, read_history
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths
from tests.support.queues import queue_at
from tests.support.relays import Writing, start
from tests.support.specs import tuned_spec


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return queue_at(tmp_path, lease_s=4.0)


def rows(*identities: tuple[int, int]) -> list[HistoryRow]:
    return [
        HistoryRow(attempt, seq, {"attempt": attempt, "seq": seq}) for attempt, seq in identities
    ]


def train(queue: Queue, job: str, **how: bool) -> tracked_run.TrackedRun:
    (found,) = [run for run in tracked_run.runs_of(queue.job(job), **how) if run.kind == "train"]
    return found


def steps(run: tracked_run.TrackedRun) -> list[Any]:
    return [row.values["train/step"] for row in run.rows]


# Which row is which line


def test_an_assignment_only_grows() -> None:
    chain = rows((1, 0), (1, 1), (1, 3), (2, 0))
    sent = SentRows().assign(chain[:2]).assign(chain)
    assert sent.segments == ((1, 0, 2), (1, 3, 1), (2, 0, 1)) and sent.assigned == 4
    assert sent.fits(chain) and sent.fits([*chain, *rows((2, 1))])


@pytest.mark.parametrize(
    "now", [[(1, 0), (2, 0)], [(1, 0)], [(2, 0), (1, 1)], [(1, 0), (1, 2)]], ids=str
)
def test_rows_that_were_superseded_are_noticed(now: list[tuple[int, int]]) -> None:
    assert not SentRows().assign(rows((1, 0), (1, 1))).fits(rows(*now))


def test_a_new_generation_remembers_whom_to_mark_superseded() -> None:
    second = SentRows().assign(rows((1, 0))).restarted()
    assert (second.generation, second.assigned, second.superseded) == (2, 0, (1,))
    assert second.changed(gone=True).assign(rows((1, 0))).restarted().superseded == (1,)


def test_a_torn_cursor_is_none(tmp_path: Path) -> None:
    cursors = Cursors(RootPaths(tmp_path), target("http://w", "e", "p"))
    cursors.save(Cursor(job="a", runs={"train": SentRows(confirmed=3)}))
    assert cursors.load("a").runs["train"].confirmed == 3
    (cursors.dir / "a.json").write_bytes(b'{"job": "a", "ru')
    assert cursors.load("a") == Cursor(job="a")


# What the runs are


def test_settled_rows_are_those_up_to_the_newest_complete_checkpoint(queue: Queue) -> None:
    job = start(queue)
    job.steps(0, 10)
    state = job.claim.dir.checkpoints / "step-6"
    state.mkdir(parents=True)
    assert train(queue, job.job, settled=True).sendable == 0
    (state / "COMPLETE").write_bytes(b"{}")
    assert train(queue, job.job, settled=True).sendable == 7
    assert train(queue, job.job).sendable == 10
    fs.publish(job.claim.dir.done("train"), b"{}")
    assert train(queue, job.job, settled=True).sendable == 10


def test_nothing_goes_out_while_it_is_unknown_when_the_last_attempt_ended(queue: Queue) -> None:
    job = start(queue)
    job.steps(0, 3)
    queue.reap(worker=job.claim.worker, now=True)
    assert train(queue, job.job).sendable == 3
    fs.remove(job.claim.dir.revoked)  # the process that took the claim died before it recorded that
    assert train(queue, job.job).sendable == 0


@pytest.mark.parametrize("by", ["reap", "cancel"])
def test_rows_after_the_claim_was_taken_are_nobodys(queue: Queue, by: str) -> None:
    job = start(queue)
    job.steps(0, 3)
    queue.cancel(job.job) if by == "cancel" else queue.reap(worker=job.claim.worker, now=True)
    job.steps(3, 6)
    assert steps(train(queue, job.job)) == [0, 1, 2]


def test_jobs_that_moved_while_they_were_read_wait_for_the_next_pass(queue: Queue) -> None:
    jobs = [start(queue), start(queue, 2e-5)]
    before = queue.jobs()
    jobs[0].claim.requeue(Reason.PREEMPTED)
    assert tracked_run.unchanged(before, queue.jobs()) == {jobs[1].job}


def test_an_evaluation_done_again_counts_once_a_changed_one_for_the_first(queue: Queue) -> None:
    job = start(queue)
    job.row(phase="eval", epoch=1.0, score=0.1)
    job.row(phase="eval", epoch=2.0, score=0.2)
    job.claim.requeue(Reason.PREEMPTED)
    job = Writing(queue, queue.claim("next-0123456789abcdef"))  # type: ignore[arg-type] # it waits
    job.row(phase="eval", epoch=1.0, score=0.1)
    job.row(phase="eval", epoch=2.0, score=0.3)
    (run,) = [run for run in tracked_run.runs_of(queue.job(job.job)) if run.kind == "eval"]
    assert [(row.attempt, row.values["eval/score"]) for row in run.rows] == [(1, 0.1), (2, 0.3)]


def test_what_looks_like_a_secret_leaves_in_no_config(queue: Queue) -> None:
    job = start(queue)
    secret = "hf_" + "a" * 34
    manifest = {"code": {"commit": "c" * 40}, "image": secret, secret: ["d" * 40]}
    fs.publish(job.claim.dir.manifest, json.dumps(manifest).encode())
    job.steps(0, 1)
    config = train(queue, job.job).config
    assert secret not in json.dumps(config) and "d" * 40 not in json.dumps(config)
    assert config["manifest"]["code"]["commit"] == "c" * 40
    assert config["spec"] == msgspec.json.decode(msgspec.json.encode(queue.job(job.job).spec))


def test_a_spec_that_can_not_be_read_is_named(queue: Queue) -> None:
    job = start(queue)
    job.steps(0, 1)
    fs.remove(queue.paths.job(job.job).spec)
    fs.publish(job.claim.entry.path(queue.paths), b"{}")
    with pytest.raises(JobspecError, match=job.job):
        tracked_run.runs_of(queue.job(job.job))


# Reading on


def test_reading_on_finds_what_reading_all_finds(queue: Queue) -> None:
    job, reader = start(queue), Reader()
    path = job.claim.dir.metrics
    for act in (
        lambda: job.steps(0, 3),
        lambda: job.steps(3, 4),
        lambda: append(path, b'{"attempt": 1, "seq": 4, "phase": "train", "step": 4, "lo'),
        lambda: append(path, b'ss": 1}\n'),
        lambda: append(path, path.read_bytes().splitlines(keepends=True)[-1]),  # a lost reply
        lambda: setattr(job, "seq", 5),
        lambda: job.row(step=5, eval_loss=2.0),
        lambda: append(path, b"\x00\n[1]\n"),
        lambda: job.row(step=6, loss=float("nan")),
        lambda: job.row(phase="eval", epoch=1.0, score=0.5),
        lambda: job.steps(7, 9),
    ):
        act()
        again = {
            run.kind: run
            for run in tracked_run.runs_of(queue.job(job.job))
            if tracked_run.is_due(run)
        }
        found = {run.kind: run for run in reader.read(queue.job(job.job))}
        assert repr(found) == repr(again)
    assert steps(found["train"]) == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_reading_on_reads_no_line_twice(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    job, reader = start(queue), Reader()
    job.steps(0, 3)
    reader.read(queue.job(job.job))
    job.steps(3, 5)
    monkeypatch.setattr(tracked_run, "runs_of", None)  # what reads all
    (run,) = reader.read(queue.job(job.job))
    assert steps(run) == [0, 1, 2, 3, 4]


# Comparing


def test_comparing_finds_missing_repeated_different_and_surplus_rows(queue: Queue) -> None:
    job = start(queue)
    job.steps(0, 5)
    job.row(step=5, loss=float("nan"))
    run = train(queue, job.job)
    good = [{**row.values, "_step": step} for step, row in enumerate(run.rows)]
    good[5]["train/loss"] = "NaN"  # as W&B writes it
    assert compare(run, "r", good).is_exact
    assert compare(run, "r", good[:4]).missing == [4, 5]
    assert compare(run, "r", [*good, good[2]]).repeated == [2]
    assert compare(run, "r", [*good, {"_step": 9}]).different == [9]
    wrong = [*good[:3], good[3] | {"train/loss": 7.0}, *good[4:]]
    assert compare(run, "r", wrong).different == [3] and not compare(run, "r", None).is_exact
    assert (
        read_history(lambda first, beyond: [r for r in good if first <= r["_step"] < beyond], 6)
        == good
    )


def test_another_job_or_project_is_another_target() -> None:
    assert len({target("u", e, p) for e in ("a", None) for p in ("x", "y")}) == 4
    assert tuned_spec().tracking.project == "jobspec"
