"""jobspec.report and jobspec.results: what status, show and results tell, from real queues."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import msgspec
import pytest
from clikit import (
    WORKER,
    base_spec,
    beat,
    claim_next,
    ended,
    fail,
    report_progress,
    scores,
    succeed,
    take,
    tuned_spec,
)

from jobspec import report, results
from jobspec.queue import Queue
from jobspec.record import Reason, State
from jobspec.spec import ResourcesSpec


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue.create(tmp_path / "root")


def look(queue: Queue) -> report.Status:
    jobs = queue.jobs()
    return report.status(queue, jobs, report.select(jobs, None).jobs)


def only_row(queue: Queue) -> report.JobRow:
    (row,) = look(queue).jobs
    return row


def test_an_empty_queue(queue: Queue) -> None:
    now = look(queue)
    assert set(now.counts.values()) == {0} and list(now.counts) == [s.value for s in State]
    assert (now.jobs, now.workers, now.quarantine) == ([], [], [])


def test_the_fields_are_those_of_the_documentation(queue: Queue) -> None:
    take(queue, base_spec())
    found = json.loads(msgspec.json.encode(look(queue)))
    assert list(found) == ["schema", "root", "counts", "jobs", "workers", "quarantine"]
    assert list(found["jobs"][0]) == [
        *("job", "name", "state", "attempt", "phase", "progress", "eta_s", "worker", "host"),
        *("reason", "enqueued_at", "started_at", "ended_at", "metrics"),
        *("reason_count", "reason_limit"),
    ]
    assert list(found["workers"][0]) == ["worker", "host", "alive", "age_s", "job", "gpus"]


def test_a_pending_job(queue: Queue) -> None:
    job = queue.enqueue(base_spec())
    row = only_row(queue)
    assert (row.job, row.name, row.state, row.attempt) == (job.id, "qwen3-8b-base", "pending", 1)
    assert (row.phase, row.reason, row.started_at, row.worker) == (None, None, None, None)


def test_a_running_job_shows_its_progress(queue: Queue) -> None:
    claim = take(queue, base_spec())
    assert only_row(queue).progress is None
    report_progress(claim, 43, loss=0.25)
    row = only_row(queue)
    assert (row.state, row.phase, row.progress, row.eta_s) == ("running", "train", 0.43, 7421)
    assert (row.worker, row.host) == (WORKER, "gpu012")
    assert row.metrics == {"loss": 0.25}
    assert row.started_at == "2026-11-22T10:00:00.000000Z"


def test_progress_stays_between_nothing_and_all(queue: Queue) -> None:
    claim = take(queue, base_spec())
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


def test_a_job_that_came_back_says_why(queue: Queue) -> None:
    claim = take(queue, base_spec())
    claim.end(ended(Reason.WALLTIME, step=400))
    claim.requeue("walltime")
    row = only_row(queue)
    assert (row.state, row.attempt, row.reason) == ("pending", 2, "walltime")


def test_a_damaged_spec_does_not_hide_the_queue(queue: Queue) -> None:
    job = queue.enqueue(base_spec())
    for path in (job.paths.spec, job.entry.path(queue.paths)):
        path.chmod(0o644)
        path.write_bytes(b"{")
    assert only_row(queue).name == "qwen3-8b-base"


def test_selection_keeps_every_running_job_and_the_newest_ended(queue: Queue) -> None:
    ids = [succeed(queue, base_spec(notes=str(n)), {}).id for n in range(4)]
    running = [take(queue, base_spec(notes=f"r{n}")).job for n in range(3)]
    waiting = [queue.enqueue(base_spec(notes=f"p{n}")).id for n in range(3)]
    chosen = report.select(queue.jobs(), 2)
    shown = [job.id for job in chosen.jobs]
    assert set(shown[:3]) == set(running)
    assert shown[3:5] == waiting[:2]
    assert shown[5:] == [ids[3], ids[2]]
    assert chosen.hidden == {State.PENDING: 1, State.SUCCEEDED: 2}
    assert report.select(queue.jobs(), None).hidden == {}


def test_workers_are_alive_while_their_record_is_young(queue: Queue) -> None:
    gone = "gone-0123456789abcdef"
    beat(queue, WORKER, None)
    beat(queue, gone, None, updated_at="2020-01-01T00:00:00.000000Z")
    alive = {row.worker: row.alive for row in look(queue).workers}
    assert alive == {WORKER: True, gone: False}


def test_why_nothing_runs(queue: Queue) -> None:
    def why() -> str:
        jobs = queue.jobs()
        return report.why_waiting(queue, jobs, report.worker_rows(queue)) or ""

    assert why() == ""
    queue.enqueue(base_spec(resources=ResourcesSpec(gpus=16)))
    assert "no worker is alive" in why() and str(queue.paths.root) in why()
    beat(queue, WORKER, None)
    assert why() == "the next job waits for 16 GPUs, the live workers have at most 8"
    beat(queue, WORKER, None, gpus=16, gpu_memory_gib=79.6)
    assert why() == ""
    queue.enqueue(base_spec(notes="y", resources=ResourcesSpec(gpu_memory_gib=94)))
    queue.cancel(queue.jobs()[0].id)
    assert why() == "the next job needs GPUs of 94 GiB, the live workers' have 79.6"
    queue.hold("quota is full")
    assert "on hold: quota is full" in why()
    queue.release()
    take(queue, base_spec(notes="another"))
    assert why() == ""


def test_all_that_is_known_of_a_job(queue: Queue) -> None:
    claim = take(queue, base_spec())
    claim.end(ended(Reason.PREEMPTED, message="stopped by Slurm", step=400))
    claim.requeue("preempted")
    again = claim_next(queue)
    told = report.job_report(queue.job(again.job))
    first, second = told.attempts
    assert (first.reason, first.message, first.step) == ("preempted", "stopped by Slurm", 400)
    assert (first.wall_s, first.overhead_s) == (3659.0, 0.75)
    assert [phase.phase for phase in first.phases] == ["prepare", "train"]
    assert (second.attempt, second.reason, second.worker) == (2, None, WORKER)
    assert told.spec == base_spec()


# Results


def three_jobs(queue: Queue) -> list[results.ResultRow]:
    succeed(queue, tuned_spec(rate=1e-5), scores(0.95, 0.75, truncated=0.3))
    succeed(queue, tuned_spec(rate=5e-6), scores(0.94, 0.77))
    succeed(queue, base_spec(), scores(0.93, 0.7))
    fail(queue, base_spec(notes="x"), "no")
    return results.rows(queue.jobs())


def test_the_base_models_row_stands_first(queue: Queue) -> None:
    found = three_jobs(queue)
    assert [row.learning_rate for row in found] == [None, 5e-6, 1e-5]
    assert {row.model for row in found} == {"Qwen/Qwen3-8B"}


def test_scores_are_told_from_what_stands_beside_them(queue: Queue) -> None:
    found = three_jobs(queue)
    assert results.benchmarks(found) == ["minerva_math500", "aime24"]
    score = found[2].scores["aime24"]
    assert (score.metric, score.value, score.stderr) == ("avg_at_32", 0.75, 0.061)
    assert (score.sampling_stderr, score.truncated_frac) == (0.012, 0.3)
    assert found[2].scores["minerva_math500"].metric == "math_verify"


def test_the_best_of_each_benchmark_is_marked(queue: Queue) -> None:
    best = [
        (row.learning_rate, name)
        for row in three_jobs(queue)
        for name, s in row.scores.items()
        if s.best
    ]
    assert best == [(5e-6, "aime24"), (1e-5, "minerva_math500")]


def test_one_job_alone_is_best_of_nothing(queue: Queue) -> None:
    succeed(queue, base_spec(), scores(0.9, 0.7))
    (row,) = results.rows(queue.jobs())
    assert not any(score.best for score in row.scores.values())


def test_a_null_score_is_no_score() -> None:
    assert results.scores({"bench/aime24/avg_at_32": None, "train_loss": 0.5}) == {}


def test_csv_has_every_metric(queue: Queue) -> None:
    table = list(csv.DictReader(io.StringIO(results.to_csv(three_jobs(queue)))))
    assert [row["learning_rate"] for row in table] == ["", "5e-06", "1e-05"]
    assert table[2]["bench/aime24/mean_response_tokens"] == "9120.5"
    assert table[2]["bench/minerva_math500/sampling_stderr"] == ""
