"""`jobspec submit --time auto`: which time limit is chosen, and an sbatch that has gaps."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jobspec.cluster import walltime
from jobspec.cluster.walltime import Choice, Work
from jobspec.errors import JobspecError
from jobspec.queue.queue import Queue
from jobspec.records.attempt import End
from jobspec.records.base import Reason
from tests.support.commands import jobspec
from tests.support.queues import claim_next, queue_at
from tests.support.specs import base_spec

HOUR = 3600.0


def work(hours: float = 6.0, *, jobs: int = 1, save_s: float = 1800.0) -> Work:
    each = hours * HOUR
    return Work(
        jobs=jobs,
        estimated=jobs if hours else 0,
        longest_s=each,
        total_s=jobs * each,
        startup_s=300.0,
        save_s=save_s,
    )


def choose(
    waiting: Work,
    wait_s: Callable[[float], float | None],
    *,
    elements: int = 1,
    most_s: float | None = 24 * HOUR,
) -> Choice:
    return walltime.choose(waiting, elements, signal_s=300.0, most_s=most_s, wait_s=wait_s)


def gap(hours: float, then: float) -> Callable[[float], float]:
    """A partition that is free for some hours; longer limits wait."""
    return lambda limit_s: 0.0 if limit_s <= hours * HOUR else then * HOUR


def test_an_empty_partition_gets_the_limit_that_the_work_needs() -> None:
    assert choose(work(6), lambda limit_s: 0.0).time == "06:10:00"


def test_a_gap_is_used_if_the_work_then_ends_earlier() -> None:
    assert choose(work(1.5), gap(2, 30)).time == "01:40:00"
    # Four hours of work in gaps of two hours: it would be interrupted, but not wait for 30 hours.
    assert choose(work(4), gap(2, 30)).time == "02:00:00"


def test_a_short_wait_is_better_than_many_interruptions() -> None:
    def wait_s(limit_s: float) -> float:
        return 0.8 * HOUR if limit_s <= 2 * HOUR else 1.0 * HOUR

    assert choose(work(6), wait_s).time == "06:10:00"


@pytest.mark.parametrize(("save_s", "least"), [(1800.0, "00:40:00"), (7200.0, "02:10:00")])
def test_no_limit_is_below_what_a_start_and_a_checkpoint_need(save_s: float, least: str) -> None:
    asked: list[float] = []

    def wait_s(limit_s: float) -> float:
        asked.append(limit_s)
        return limit_s**2

    assert choose(work(6, save_s=save_s), wait_s).time == least
    assert walltime.sbatch_time(min(asked)) == least and len(asked) <= 8


def test_jobs_are_split_among_elements_and_a_limit_of_the_site_holds() -> None:
    assert choose(work(2, jobs=6), lambda limit_s: 0.0, elements=3).time == "04:10:00"
    assert choose(work(2, jobs=2), lambda limit_s: 0.0, elements=50).time == "02:10:00"
    assert choose(work(30), lambda limit_s: 0.0, most_s=3 * HOUR).time == "03:00:00"
    assert choose(work(6), lambda limit_s: 0.0, most_s=1200.0).time == "00:20:00"


def test_without_estimates_the_longest_limit_is_filled_unless_a_gap_is_worth_more() -> None:
    assert choose(work(0), lambda limit_s: 0.0).time == "24:00:00"
    assert choose(work(0), gap(8, 100)).time == "08:00:00"


def test_limits_that_slurm_refuses_are_left_out() -> None:
    def wait_s(limit_s: float) -> float | None:
        return 0.0 if limit_s <= HOUR else None

    choice = choose(work(6), wait_s)
    assert choice.time == "01:00:00" and "   02:00:00: Slurm names no start" in choice.lines
    with pytest.raises(JobspecError, match="no start for any time limit"):
        choose(work(6), lambda limit_s: None)


def finish(queue: Queue, wall_s: float) -> None:
    claim = claim_next(queue)
    end = End(reason=Reason.SUCCEEDED, wall_s=wall_s, first_step_s=200.0)
    claim.end(end)
    claim.finish("succeeded", {"metrics": {}})


def test_waiting_jobs_are_estimated_by_finished_ones(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    for number, wall_s in enumerate((3000.0, 4000.0, 8000.0)):
        queue.enqueue(base_spec(notes=str(number)))
        finish(queue, wall_s)
    queue.enqueue(base_spec(notes="resumes"))
    claim = claim_next(queue)
    claim.end(End(reason=Reason.WALLTIME, wall_s=1500.0))
    claim.requeue("walltime")
    queue.enqueue(base_spec(notes="new"))
    queue.enqueue(base_spec("allenai/Olmo-3-7B-Think"))
    assert walltime.measure(queue) == Work(
        jobs=3, estimated=2, longest_s=4000.0, total_s=6500.0, startup_s=200.0, save_s=1800.0
    )


# As Slurm 22.05 prints it, on stderr; limits of more than an hour wait until 2099.
SBATCH = """#!/bin/sh
cat > {base}/script
echo "$*" >> {base}/calls
time=$(sed -n 's/^#SBATCH --time=//p' {base}/script)
case "$time" in
  0[01]:[04]0:00) when=2020-01-01T00:00:00;;
  16:*) echo 'allocation failure: Requested time limit is invalid' >&2; exit 1;;
  *) when=2099-01-01T00:00:00;;
esac
echo "sbatch: Job 7 to start at $when using 1 processors on nodes n1 in partition main" >&2
"""


def test_a_dry_run_explains_the_choice_and_submits_nothing(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.enqueue(base_spec(notes="1"))
    finish(queue, 3 * HOUR)
    queue.enqueue(base_spec(notes="2"))
    where = ["--site", tmp_path / "site.env"]
    jobspec("setup", *where, "--root", queue.paths.root, "--sif", tmp_path / "worker.sif")
    (tmp_path / "sbatch").write_text(SBATCH.format(base=tmp_path))
    (tmp_path / "sbatch").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    shown = jobspec("submit", *where, "--time", "auto", "--dry-run", PATH=path)
    assert "\n#SBATCH --time=01:00:00\n" in shown.stdout
    assert (
        "1 of 1 waiting jobs resemble a finished one; an element has 3.0 h of work" in shown.stderr
    )
    assert "-> 01:00:00: starts in 0 min, 4 x, done in" in shown.stderr
    assert "   16:00:00: Slurm names no start" in shown.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls and all(call.startswith("--test-only --parsable --array=0") for call in calls)
    assert not (queue.paths.root / "slurm").exists()
    fixed = jobspec("submit", *where, "--time", "2:00:00", "--dry-run")
    assert "\n#SBATCH --time=2:00:00\n" in fixed.stdout
    assert "not a time limit" in jobspec("submit", *where, "--time", "soon", code=1).stderr
    assert (
        "not an array"
        in jobspec("submit", *where, "--time", "auto", "--array", "x", code=1, PATH=path).stderr
    )
