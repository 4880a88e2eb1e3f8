"""What Slurm does to an element, and what becomes of the job it works on.

One long job goes through all of it, so that a start of its ranks shows two things at once.
"""

from __future__ import annotations

import json

import pytest
from clusterkit import Cluster, long_spec, processes_with, reason, resumed_from
from slurmkit import KILL_WAIT_S

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.container,
    pytest.mark.deepspeed,
    pytest.mark.xdist_group("cluster"),
]


def test_warning_requeue_cancel_and_a_dead_controller(cluster: Cluster) -> None:
    slurm = cluster.slurm
    job = cluster.enqueue(long_spec(cluster.tiny, "chain"))
    element = f"{cluster.sbatch('0')}_0"

    # The warning before the time limit: checkpoint, requeue, and the element comes back.
    cluster.wait_for_steps(job, 1)
    slurm.call("scancel", "--batch", "--signal=USR2", element)
    cluster.wait_for_steps(job, 2)
    assert slurm.job(element)["Restarts"] == "1"
    assert reason(job, 1) == "walltime" or reason(job, 1) == "preempted"
    first = resumed_from(job, 2)
    assert first["attempt"] == 1 and first["step"] > 1

    # Without a controller everything that works goes on, and status tells of it.
    with slurm.controller_down():
        told = json.loads(cluster.jobspec("status", "--json"))
        assert told["counts"]["running"] == 1 and told["workers"][0]["alive"]
        cluster.wait_for_steps(job, 2, first["step"] + 10)

    # A requeue by hand is a TERM: the script leaves the requeueing to Slurm.
    slurm.call("scontrol", "requeue", element)
    cluster.wait_for_steps(job, 3)
    assert slurm.job(element)["Restarts"] == "2" and reason(job, 2) == "preempted"
    assert resumed_from(job, 3)["step"] > first["step"]

    # A cancelled element saves, ends within KillWait, and stays cancelled.
    slurm.call("scancel", element)
    cluster.wait_until(lambda: reason(job, 3) == "preempted", "the third stop", KILL_WAIT_S)
    cluster.wait_until(lambda: not processes_with(str(cluster.root)), "no process", KILL_WAIT_S)
    cluster.wait_for_end(element)
    assert slurm.state_of(element) == "CANCELLED" and slurm.job(element)["Restarts"] == "2"
    assert cluster.states() == {job.id: "pending"}
    assert "requeueing" in cluster.log(element) and cluster.log(element).count("requeueing") == 1
