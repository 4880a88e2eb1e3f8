"""What `status`, `show` and `results` print, from real queues."""

from __future__ import annotations

import csv
import io
import os
import shutil
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import msgspec
import pytest

from jobspec.monitoring import status
from jobspec.queue.queue import Queue
from jobspec.records.base import Reason, State
from jobspec.results import formats
from jobspec.results import table as results
from jobspec.spec.schema import ResourcesSpec
from tests.support.queues import (
    WORKER,
    claim_next,
    ended,
    enqueue_and_claim,
    fail,
    report_progress,
    scores,
    send_heartbeat,
    succeed,
)
from tests.support.specs import base_spec, tuned_spec


def look(queue: Queue) -> status.Status:
    jobs = queue.jobs()
    return status.status(queue, jobs, status.select(jobs, None))


def only_row(queue: Queue) -> status.JobRow:
    (row,) = look(queue).jobs
    return row


def test_an_empty_queue(queue: Queue) -> None:
    now = look(queue)
    assert set(now.counts.values()) == {0} and list(now.counts) == [s.value for s in State]
    assert (now.jobs, now.workers, now.quarantine) == ([], [], [])


def test_a_pending_job(queue: Queue) -> None:
    job = queue.enqueue(base_spec())
    row = only_row(queue)
    assert (row.job, row.name, row.state, row.attempt) == (job.id, "qwen3-8b-base", "pending", 1)
    assert (row.phase, row.reason, row.started_at, row.worker) == (None, None, None, None)


def test_a_running_job_shows_its_progress(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    assert only_row(queue).progress is None
    report_progress(claim, 43, loss=0.25)
    row = only_row(queue)
    assert (row.state, row.phase, row.progress, row.eta_s) == ("running", "train", 0.43, 7421)
    assert (row.worker, row.host) == (WORKER, "gpu012")
    assert row.metrics == {"loss": 0.25}
    assert row.started_at == "2026-11-22T10:00:00.000000Z"


def test_progress_stays_between_0_and_1(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    report_progress(claim, 200)
    assert only_row(queue).progress == 1.0


def test_a_succeeded_job_shows_its_scores(queue: Queue) -> None:
    succeed(queue, base_spec(), scores(0.9, 0.7))
    row = only_row(queue)
    assert (row.state, row.reason, row.progress) == ("succeeded", "succeeded", None)
    assert row.metrics["bench/aime24/avg_at_32"] == 0.7
    assert row.ended_at == "2026-11-22T11:01:00.000000Z"


def test_a_failed_job_says_why(queue: Queue) -> None:
    fail(queue, base_spec(), "row 17: no")
    row = only_row(queue)
    assert (row.state, row.reason, row.phase) == ("failed", "failed", "prepare")


def test_a_requeued_job_says_why(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    claim.end(ended(Reason.WALLTIME, step=400))
    claim.requeue("walltime")
    row = only_row(queue)
    assert (row.state, row.attempt, row.reason) == ("pending", 2, "walltime")


@pytest.mark.parametrize("claimed", [False, True])
def test_a_cancelled_attempt_stays_cancelled_after_a_retry(queue: Queue, claimed: bool) -> None:
    if claimed:
        job = enqueue_and_claim(queue, base_spec()).job
    else:
        job = queue.enqueue(base_spec()).id
    queue.cancel(job)
    queue.retry(job)
    claim_next(queue).requeue("node")
    reasons = ["cancelled", "node"]
    assert [each.reason for each in only_row(queue).attempts] == reasons
    report = status.job_report(queue.job(job))
    assert [each.reason for each in report.attempts] == reasons
    assert [(each.reason, each.count) for each in report.losses] == [("node", 1)]


def test_an_attempt_that_had_ended_before_its_job_was_cancelled_is_cancelled(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    claim.end(ended(Reason.WALLTIME, step=400))
    queue.cancel(claim.job)
    queue.retry(claim.job)
    (attempt,) = only_row(queue).attempts
    assert (attempt.reason, attempt.step) == ("cancelled", 400)


def test_a_job_whose_directory_was_deleted_says_so(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    assert not only_row(queue).directory_missing
    shutil.rmtree(queue.job(claim.job).paths.dir)
    row = only_row(queue)
    assert row.directory_missing and row.name == "qwen3-8b-base"
    queue.fsck()
    assert not only_row(queue).directory_missing


def test_a_damaged_spec_does_not_hide_the_queue(queue: Queue) -> None:
    job = queue.enqueue(base_spec())
    for path in (job.paths.spec, job.entry.path(queue.paths)):
        path.chmod(0o644)
        path.write_bytes(b"{")
    assert only_row(queue).name == "qwen3-8b-base"


def test_selection_keeps_every_running_job_and_the_newest_ended(queue: Queue) -> None:
    ids = [succeed(queue, base_spec(notes=str(n)), {}).id for n in range(4)]
    running = [enqueue_and_claim(queue, base_spec(notes=f"r{n}")).job for n in range(3)]
    waiting = [queue.enqueue(base_spec(notes=f"p{n}")).id for n in range(3)]
    chosen = status.select(queue.jobs(), 2)
    shown = [job.id for job in chosen.jobs]
    assert set(shown[:3]) == set(running)
    assert shown[3:5] == waiting[:2]
    assert shown[5:] == [ids[3], ids[2]]
    assert chosen.hidden == {State.PENDING: 1, State.SUCCEEDED: 2}
    assert status.select(queue.jobs(), None).hidden == {}


def test_workers_are_alive_while_their_record_is_recent(queue: Queue) -> None:
    gone = "gone-0123456789abcdef"
    send_heartbeat(queue, WORKER, None)
    send_heartbeat(queue, gone, None, updated_at="2020-01-01T00:00:00.000000Z")
    alive = {row.worker: row.alive for row in look(queue).workers}
    assert alive == {WORKER: True, gone: False}


def test_why_nothing_runs(queue: Queue) -> None:
    def why() -> str:
        return look(queue).nothing_runs or ""

    assert why() == ""
    queue.enqueue(base_spec(resources=ResourcesSpec(gpus=16)))
    own = f"jobspec-worker --root {queue.paths.root}"
    assert (
        why()
        == f"no worker is alive; start some with jobspec submit --array 0-3, or one here: {own}"
    )
    send_heartbeat(queue, WORKER, None)
    assert why() == "the next job waits for 16 GPUs, workers have 8"
    send_heartbeat(queue, WORKER, None, gpus=16, gpu_memory_gib=79.6)
    assert why() == ""
    queue.enqueue(base_spec(notes="y", resources=ResourcesSpec(gpu_memory_gib=94)))
    queue.cancel(queue.jobs()[0].id)
    assert why() == "the next job needs 94 GiB per GPU, workers have 79.6"
    queue.hold("quota is full")
    assert "on hold: quota is full" in why()
    queue.release()
    enqueue_and_claim(queue, base_spec(notes="another"))
    assert why() == ""


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"f_flag": os.ST_RDONLY}, "its filesystem is read-only"),
        ({"f_favail": 0}, "its filesystem has no free inodes"),
        ({"f_bavail": 0}, "its filesystem is full"),
    ],
)
def test_status_says_that_nothing_can_be_written(
    queue: Queue, changed: dict[str, int], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.enqueue(base_spec())
    usable = {"f_flag": 0, "f_files": 10, "f_favail": 10, "f_bavail": 10}
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(**usable | changed))
    assert says in (look(queue).nothing_runs or "")


def test_why_workers_do_not_claim_a_job_that_fits(queue: Queue) -> None:
    def why() -> str:
        return look(queue).nothing_runs or ""

    queue.enqueue(base_spec())
    send_heartbeat(queue, WORKER, None, note="GPU 3 does not answer")
    assert why() == "every live worker says: GPU 3 does not answer"
    queue.quarantine("gpu012", "ECC errors", 3600)
    assert why() == "every live worker's host is quarantined (gpu012: ECC errors)"
    queue.drain(WORKER)
    assert "every live worker is draining" in why()
    send_heartbeat(queue, "gpu013-0123456789abcdef", None)
    assert why() == ""


def test_a_pending_job_says_what_no_worker_has_while_others_run(queue: Queue) -> None:
    enqueue_and_claim(queue, base_spec())
    send_heartbeat(queue, "gpu013-0123456789abcdef", None, gpus=2, gpu_memory_gib=94)
    queue.enqueue(base_spec(notes="a", resources=ResourcesSpec(gpus=16)))
    queue.enqueue(base_spec(notes="b", resources=ResourcesSpec(gpus=4, gpu_memory_gib=94)))
    queue.enqueue(base_spec(notes="c", resources=ResourcesSpec(gpus=8)))
    now = look(queue)
    assert now.nothing_runs is None
    assert [row.waits_for for row in now.jobs] == [
        *(None, "waits for 16 GPUs, workers have at most 8"),
        *("needs 94 GiB per GPU, workers have 0", None),
    ]


def test_what_a_workers_row_shows(queue: Queue) -> None:
    started = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    send_heartbeat(
        queue, WORKER, None, slurm_job="4711_3", started_at=started, busy_s=5400.0, phase="train"
    )
    (row,) = look(queue).workers
    assert (row.state, row.slurm_job, row.phase) == ("idle", "4711_3", None)
    assert row.busy_frac == pytest.approx(0.75, abs=0.01)
    enqueue_and_claim(queue, base_spec())
    assert look(queue).workers[0].state == "busy"
    queue.drain(WORKER)
    assert look(queue).workers[0].state == "draining"
    assert look(queue).workers[0].busy_frac is None  # a worker of a version that does not report it


def test_attempts_and_why_each_ended(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    claim.end(ended(Reason.WALLTIME, step=400))
    claim.requeue("walltime")
    claim_next(queue)
    queue.reap(worker=WORKER, now=True)  # it has no end.json; its claim.json names the host
    row = only_row(queue)
    assert [(a.attempt, a.reason, a.step, a.host) for a in row.attempts] == [
        (1, "walltime", 400, "gpu012"),
        (2, "lost", None, "gpu012"),
    ]


def test_a_running_job_shows_its_newest_loss_and_its_mean_speed(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    report_progress(claim, 43, loss=0.9, eval_loss=0.5)
    rows = [{"phase": "train", "step": n, "loss": 1 / n, "pad": "x" * 400} for n in range(1, 100)]
    rows += [{"phase": "train", "step": n, "tokens_per_second": 100.0 * n} for n in (1, 2, 3)]
    rows.append({"phase": "train", "step": 4, "loss": None, "tokens_per_second": None})
    lines = b"\n".join(map(msgspec.json.encode, rows)) + b'\n{"phase":"train","loss":NaN}\n{"pha'
    claim.dir.metrics.write_bytes(lines)
    metrics = only_row(queue).metrics
    assert metrics == {"loss": 1 / 99, "eval_loss": 0.5, "tokens_per_second": 200.0}


def test_the_report_of_one_job(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    claim.end(ended(Reason.PREEMPTED, message="stopped by Slurm", step=400))
    claim.requeue("preempted")
    again = claim_next(queue)
    report = status.job_report(queue.job(again.job))
    first, second = report.attempts
    assert (first.reason, first.message, first.step) == ("preempted", "stopped by Slurm", 400)
    assert (first.wall_s, first.overhead_s) == (3659.0, 0.75)
    assert [phase.phase for phase in first.phases] == ["prepare", "train"]
    assert (second.attempt, second.reason, second.worker) == (2, None, WORKER)
    assert report.spec == base_spec()


# Results


def three_jobs(queue: Queue) -> list[results.ResultRow]:
    succeed(queue, tuned_spec(rate=1e-5), scores(0.95, 0.75, truncated=0.3))
    succeed(queue, tuned_spec(rate=5e-6), scores(0.94, 0.77))
    succeed(queue, base_spec(), scores(0.93, 0.7))
    fail(queue, base_spec(notes="x"), "no")
    return results.rows(queue.jobs())


def test_the_base_models_row_comes_first(queue: Queue) -> None:
    rows = three_jobs(queue)
    assert [row.learning_rate for row in rows] == [None, 5e-6, 1e-5]
    assert {row.model for row in rows} == {"Qwen/Qwen3-8B"}


def test_scores_are_separated_from_other_metrics(queue: Queue) -> None:
    rows = three_jobs(queue)
    assert results.benchmarks(rows) == ["minerva_math500", "aime24"]
    score = rows[2].scores["aime24"]
    assert (score.metric, score.value, score.stderr) == ("avg_at_32", 0.75, 0.061)
    assert (score.sampling_stderr, score.truncated_frac) == (0.012, 0.3)
    assert rows[2].scores["minerva_math500"].metric == "math_verify"


def test_the_best_of_each_benchmark_is_marked(queue: Queue) -> None:
    best = [
        (row.learning_rate, name)
        for row in three_jobs(queue)
        for name, s in row.scores.items()
        if s.best
    ]
    assert best == [(5e-6, "aime24"), (1e-5, "minerva_math500")]


def test_a_single_job_is_not_marked_as_best(queue: Queue) -> None:
    succeed(queue, base_spec(), scores(0.9, 0.7))
    (row,) = results.rows(queue.jobs())
    assert not any(score.best for score in row.scores.values())


def test_a_null_score_is_no_score() -> None:
    assert results.scores({"bench/aime24/avg_at_32": None, "train_loss": 0.5}) == {}


def test_csv_has_every_metric(queue: Queue) -> None:
    table = list(csv.DictReader(io.StringIO(formats.to_csv(three_jobs(queue)))))
    assert [row["learning_rate"] for row in table] == ["", "5e-06", "1e-05"]
    assert table[2]["bench/aime24/mean_response_tokens"] == "9120.5"
    assert table[2]["bench/minerva_math500/sampling_stderr"] == ""


def test_csv_has_the_same_intervals_as_json(queue: Queue) -> None:
    succeed(queue, msgspec.structs.replace(tuned_spec(), eval=None), {"train_loss": 0.5})
    rows = three_jobs(queue)
    for row, line in zip(rows, csv.DictReader(io.StringIO(formats.to_csv(rows))), strict=True):
        for name in ("minerva_math500", "aime24"):
            for end in ("low", "high", "sampling_low", "sampling_high"):
                expected = getattr(row.scores.get(name), end, None)
                assert line[f"bench/{name}/{end}"] == ("" if expected is None else str(expected))
    assert rows[0].scores["aime24"].low is not None and not rows[-1].scores
