"""What Slurm does to an element, and what becomes of the job it works on.

One long job goes through all of it, so that a start of its ranks shows two things at once.
"""

from __future__ import annotations

import json

import pytest

from tests.support.cluster import Cluster, depth, processes_with, reason, resumed_from, score_spec
from tests.support.slurm import KILL_WAIT_S
from tests.support.workers import rows

pytestmark = [pytest.mark.slurm, pytest.mark.container, pytest.mark.deepspeed]


def test_a_time_limit_a_dead_controller_requeue_and_cancel(cluster: Cluster) -> None:
    slurm = cluster.slurm
    job = cluster.enqueue_patient(
        "chain", pace_s=0.2, num_train_epochs=50.0, checkpoint_interval_s=3600
    )
    later = cluster.enqueue(score_spec(cluster.tiny, "later"))
    # From cron, and twice: two elements for two jobs.
    cluster.jobspec(
        "setup", "--time", "00:50:00", "--signal-s", "110", "--sbatch-options", "--hold"
    )
    scaled, again = (json.loads(cluster.jobspec("scale", "--max", "4", "--json")) for _ in "12")
    assert (scaled["missing"], again["missing"], again["have"]) == (2, 0, 2)
    # The last element has the array's own number, which Slurm's commands take for all of them.
    array = scaled["slurm_job"]
    element = f"{array}_1"
    slurm.call("scancel", f"{array}_0")
    cluster.jobspec("cancel", later.id)
    slurm.call("scontrol", "release", array)
    cluster.wait_until(lambda: slurm.job(element)["JobId"] == array, "the last element's number")

    # The time limit itself, in minutes, set so that its warning is seconds away; and the element
    # comes back.
    cluster.wait_for_steps(job, 1)
    # The machine's processes, the node's, the container's: with its worker all of it ends.
    assert [depth(pid) for pid in cluster.workers()] == [3]
    hours, minutes, _ = slurm.job(element)["RunTime"].split(":")
    slurm.call(
        "scontrol", "update", f"job={element}", f"TimeLimit={int(hours) * 60 + int(minutes) + 2}"
    )
    cluster.wait_until(lambda: slurm.job(element)["Restarts"] == "1", "the warning")
    slurm.call("scontrol", "update", f"job={element}", "TimeLimit=50")
    assert reason(job, 1) in ("walltime", "preempted")
    cluster.wait_for_steps(job, 2)
    first = resumed_from(job, 2)
    assert first["attempt"] == 1 and first["step"] > 1

    # The warning by hand.
    slurm.call("scancel", "--batch", "--signal=USR2", element)
    cluster.wait_for_steps(job, 3)
    assert slurm.job(element)["Restarts"] == "2" and reason(job, 2) == "preempted"
    second = resumed_from(job, 3)
    assert second["attempt"] == 2 and second["step"] > first["step"]

    # Without a controller everything that works goes on, and status tells of it.
    with slurm.controller_down():
        told = json.loads(cluster.jobspec("status", "--json"))
        assert told["counts"]["running"] == 1 and told["workers"][0]["alive"]
        before = len(rows(job.paths.attempt(3).dir))
        cluster.wait_for_steps(job, 3, before + 10)

    # A requeue by hand is a TERM: the script leaves the requeueing to Slurm.
    slurm.call("scontrol", "requeue", element)
    cluster.wait_for_steps(job, 4)
    assert slurm.job(element)["Restarts"] == "3" and reason(job, 3) == "preempted"
    assert resumed_from(job, 4)["step"] > second["step"]

    # A cancelled element saves, ends within KillWait, and stays cancelled.
    slurm.call("scancel", element)
    cluster.wait_until(lambda: reason(job, 4) == "preempted", "the fourth stop", KILL_WAIT_S)
    cluster.wait_until(lambda: not processes_with(str(cluster.root)), "no process", KILL_WAIT_S)
    cluster.wait_for_end(element)
    assert slurm.state_of(element) == "CANCELLED" and slurm.job(element)["Restarts"] == "3"
    assert cluster.states() == {job.id: "pending", later.id: "cancelled"}
    assert cluster.log(element).count("requeueing") == 2  # by the script: after USR2 alone
