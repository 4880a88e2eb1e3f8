"""jobspec.records.metrics: rows of several attempts as one history."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobspec.records import metrics
from jobspec.records.attempt import ClaimRevoked, End
from jobspec.records.base import Reason, encode
from jobspec.storage.layout import JobPaths


@pytest.fixture
def job(tmp_path: Path) -> JobPaths:
    return JobPaths(tmp_path / "qwen-0123456789")


def minute(n: int) -> str:
    return f"2026-11-22T12:{n:02d}:00.000000Z"


def write(job: JobPaths, attempt: int, rows: list[dict], *, ended: str | None = None) -> None:
    paths = job.attempt(attempt)
    paths.dir.mkdir(parents=True)
    lines = [
        json.dumps({"attempt": attempt, "seq": seq, "phase": "train", **row})
        for seq, row in enumerate(rows)
    ]
    paths.metrics.write_text("".join(line + "\n" for line in lines))
    if ended is not None:
        paths.end.write_bytes(encode(End(reason=Reason.PREEMPTED, ended_at=ended)))


def steps(job: JobPaths, phase: str | None = None) -> list[tuple[int, int]]:
    return [(row["attempt"], row["step"]) for row in metrics.history(job, phase)]


def losses(*numbers: int, at: int = 0) -> list[dict]:
    return [{"step": n, "loss": 1 / n, "time": minute(at + i)} for i, n in enumerate(numbers)]


def test_nothing_written_is_an_empty_history(job: JobPaths) -> None:
    assert metrics.history(job) == []


def test_one_attempt_is_its_rows(job: JobPaths) -> None:
    write(job, 1, losses(1, 2, 3))
    assert steps(job) == [(1, 1), (1, 2), (1, 3)]


def test_a_resumed_attempt_cuts_what_its_predecessor_wrote_beyond_the_checkpoint(
    job: JobPaths,
) -> None:
    write(job, 1, losses(10, 20, 30, 40), ended=minute(5))
    resumed = {"resumed_from": {"attempt": 1, "step": 20}, "time": minute(10)}
    write(job, 2, [resumed, *losses(30, at=11)])
    assert steps(job) == [(1, 10), (1, 20), (2, 30)]


def test_without_a_resumed_step_the_later_attempt_wins_by_step(job: JobPaths) -> None:
    write(job, 1, losses(1, 2, 3, 4))
    write(job, 2, losses(3, 4, at=10))
    assert steps(job) == [(1, 1), (1, 2), (2, 3), (2, 4)]


def test_an_attempt_that_began_again_replaces_all_earlier_rows(job: JobPaths) -> None:
    write(job, 1, losses(1, 2, 3, 4))
    write(job, 2, losses(1, 2, at=10))
    assert steps(job) == [(2, 1), (2, 2)]


def test_the_checkpoint_of_an_older_attempt_leads_round_the_one_between(job: JobPaths) -> None:
    write(job, 1, losses(10, 20), ended=minute(3))
    write(job, 2, losses(1, 2, at=10), ended=minute(13))
    write(
        job,
        3,
        [{"resumed_from": {"attempt": 1, "step": 10}, "time": minute(20)}, *losses(11, at=21)],
    )
    assert steps(job) == [(1, 10), (3, 11)]


def test_attempts_count_as_numbers_not_as_text(job: JobPaths) -> None:
    write(job, 9, losses(1, 2, 3))
    write(job, 10, losses(2, at=10))
    assert steps(job) == [(9, 1), (10, 2)]


def test_losses_and_eval_losses_of_one_step_are_both_kept(job: JobPaths) -> None:
    rows = [
        {"step": 5, "loss": 1.0, "time": minute(0)},
        {"step": 5, "eval_loss": 2.0, "time": minute(0)},
    ]
    write(job, 1, rows)
    assert [row.keys() & {"loss", "eval_loss"} for row in metrics.history(job)] == [
        {"loss"},
        {"eval_loss"},
    ]


def test_an_attempt_that_only_evaluates_keeps_the_training_rows(job: JobPaths) -> None:
    write(job, 1, losses(1, 2))
    write(job, 2, [{"phase": "eval", "bench/aime24/avg_at_32": 0.5, "time": minute(10)}])
    assert steps(job, "train") == [(1, 1), (1, 2)]
    assert metrics.latest(metrics.history(job), "bench/aime24/avg_at_32") == 0.5


def test_rows_after_an_attempts_end_are_ignored(job: JobPaths) -> None:
    write(job, 1, losses(1, 2, 3), ended=minute(1))
    assert steps(job) == [(1, 1), (1, 2)]


def test_rows_of_a_lost_attempt_after_its_successor_began_are_ignored(job: JobPaths) -> None:
    write(job, 1, [*losses(1, 2), {"step": 3, "time": minute(30)}])
    write(
        job,
        2,
        [{"resumed_from": {"attempt": 1, "step": 9}, "time": minute(10)}, *losses(10, at=11)],
    )
    assert steps(job) == [(1, 1), (1, 2), (2, 10)]


def test_a_torn_last_line_is_ignored(job: JobPaths) -> None:
    write(job, 1, losses(1, 2))
    with job.attempt(1).metrics.open("ab") as file:
        file.write(b'{"attempt": 1, "seq": 2, "step": 3, "lo')
    assert steps(job) == [(1, 1), (1, 2)]


def test_a_damaged_line_in_the_middle_costs_only_itself(job: JobPaths) -> None:
    write(job, 1, losses(1, 2))
    path = job.attempt(1).metrics
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"\x00\xff\n[1]\n" + second)
    assert steps(job) == [(1, 1), (1, 2)]


def test_a_row_with_nan_or_infinity_is_a_row(job: JobPaths) -> None:
    write(job, 1, [{"step": 1, "loss": float("nan"), "grad_norm": float("inf")}])
    (row,) = metrics.history(job)
    assert row["loss"] != row["loss"] and row["grad_norm"] == float("inf")


def test_rows_without_a_number_get_their_lines(job: JobPaths) -> None:
    write(job, 1, [])
    job.attempt(1).metrics.write_bytes(b'{"step": 1}\n{"tor\n{"step": 2, "loss": 1, "seq": "x"}\n')
    assert [row["seq"] for row in metrics.read_rows(job.attempt(1).metrics)] == [0, 2]
    assert [row["attempt"] for row in metrics.history(job)] == [1]


def test_rows_after_the_claim_was_taken_are_ignored(job: JobPaths) -> None:
    write(job, 1, losses(1, 2, 3))
    job.attempt(1).revoked.write_bytes(encode(ClaimRevoked(at=minute(1))))
    assert steps(job) == [(1, 1), (1, 2)]


def test_a_row_appended_twice_counts_once(job: JobPaths) -> None:
    write(job, 1, losses(1, 2))
    path = job.attempt(1).metrics
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])
    assert steps(job) == [(1, 1), (1, 2)]


def test_latest_skips_null(job: JobPaths) -> None:
    write(
        job,
        1,
        [{"step": 1, "loss": 0.5, "time": minute(0)}, {"step": 2, "loss": None, "time": minute(1)}],
    )
    assert metrics.latest(metrics.history(job), "loss") == 0.5


def test_a_damaged_word_of_resuming_is_not_believed(job: JobPaths) -> None:
    write(job, 1, losses(1, 2, 3))
    write(job, 2, [{"resumed_from": {"attempt": "x"}, "time": minute(10)}, *losses(3, at=11)])
    assert steps(job) == [(1, 1), (1, 2), (2, 3)]
