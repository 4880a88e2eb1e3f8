"""Nodes that die, and nodes that only seem to: what becomes of the jobs and of Slurm's word."""

from __future__ import annotations

import json
import time

import pytest

from jobspec.queue.job import Job
from jobspec.records.attempt import ClaimRecord
from jobspec.records.base import read
from tests.support.cluster import Cluster, processes_with, reason, resumed_from

pytestmark = [pytest.mark.slurm, pytest.mark.container, pytest.mark.deepspeed]


def worker_of(job: Job, attempt: int) -> str:
    claim = read(job.paths.attempt(attempt).claim, ClaimRecord)
    assert claim is not None
    return claim.worker


def node_of(cluster: Cluster, element: str) -> str:
    return cluster.slurm.job(element)["BatchHost"]


def test_a_node_powered_off_and_one_partitioned(cluster: Cluster) -> None:
    """Leases are of two minutes: who is quicker has asked Slurm."""
    slurm = cluster.slurm
    job = cluster.enqueue_patient(
        "moving", pace_s=0.8, num_train_epochs=5.0, checkpoint_interval_s=3.0
    )
    array = cluster.sbatch("0-1")
    cluster.wait_for_steps(job, 1)
    ours, other = sorted(
        (f"{array}_{index}" for index in range(2)),
        key=lambda element: worker_of(job, 1).split("-")[1] != slurm.job(element)["JobId"],
    )

    # Power off: nobody says a word, and nothing is left of the node.
    dead = node_of(cluster, ours)
    slurm.nodes[dead].power_off()
    cluster.wait_until(lambda: slurm.job(ours)["Restarts"] == "1", "Slurm to give the node up")
    began = time.monotonic()
    told = json.loads(cluster.jobspec("scale", "--max", "0", "--json"))
    assert told["reaped"] == [job.id] and time.monotonic() - began < 60
    cluster.wait_for_steps(job, 2)
    assert worker_of(job, 2).startswith(node_of(cluster, other)) and reason(job, 1) is None
    slurm.start_node(dead)
    slurm.wait_for_nodes(dead)
    cluster.wait_until(lambda: slurm.state_of(ours) == "RUNNING", "the element's second run")

    # Partition: the controller gives the node up, its worker works on, and is not reaped for it.
    cut = node_of(cluster, other)
    with slurm.partitioned(cut):
        cluster.wait_until(lambda: slurm.job(other)["Restarts"] == "1", "Slurm to give it up")
        assert json.loads(cluster.jobspec("scale", "--max", "0", "--json"))["reaped"] == []
        # A person believes Slurm: the job begins on the other node while the first still runs.
        cluster.jobspec("reap", "--worker", worker_of(job, 2), "--now")
        cluster.wait_for_steps(job, 3)
        assert worker_of(job, 3).startswith(dead)
        fenced = str(job.paths.attempt(2).dir)
        cluster.wait_until(lambda: not processes_with(fenced), "the fenced ranks to go")
    cluster.hurry()
    cluster.wait_for_success()
    cluster.wait_for_end(ours, other)
    assert cluster.queue.job(job.id).attempt == 3
    assert resumed_from(job, 3) == {} or resumed_from(job, 3)["step"] > 0
    assert reason(job, 2) is None  # a fenced attempt writes no end.json
    assert processes_with(str(cluster.root)) == []
