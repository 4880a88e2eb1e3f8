"""An array of real workers in a real image: from specs to scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clusterkit import Cluster, ended_well, processes_with, score_spec
from waykit import tiny_spec

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.container,
    pytest.mark.deepspeed,
    pytest.mark.xdist_group("cluster"),
]


def test_two_elements_do_four_jobs(cluster: Cluster) -> None:
    for name in ("as-it-is", "once-more"):
        cluster.enqueue(score_spec(cluster.tiny, name))
    for rate in (5e-3, 1e-3):
        spec = tiny_spec(cluster.tiny, name="tuned", evaluate=True, learning_rate=rate)
        cluster.enqueue(spec)
    array = cluster.sbatch("0-1")
    cluster.wait_until(lambda: len(processes_with("jobspec-worker --root")) >= 2, "two workers")
    cluster.wait_until(lambda: ended_well(cluster.queue), "four jobs to succeed")
    cluster.wait_for_end(f"{array}_0", f"{array}_1")
    told = json.loads(cluster.jobspec("results", "--json"))["results"]
    assert len(told) == 4 and all("aime_demo" in str(row) for row in told)
    # Each node did some of it, and nothing of it is left: no process, no file off the root.
    hosts = {job.end.host for job in cluster.queue.jobs() if job.end is not None}
    assert hosts == {"n1", "n2"}
    assert processes_with(str(cluster.root)) == []
    assert not [path for path in Path("/tmp").glob("js-*") if path.name.count("-") == 2]
    assert {path.name for path in cluster.root.iterdir()} >= {"slurm", "cache", "jobs", "queue"}
