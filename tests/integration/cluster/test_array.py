"""An array of real workers in a real image: from specs to scores."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, processes_with, score_spec
from tests.support.specs import tiny_spec

pytestmark = [pytest.mark.slurm, pytest.mark.container, pytest.mark.deepspeed]


def test_two_elements_do_four_jobs(cluster: Cluster) -> None:
    cluster.enqueue(tiny_spec(cluster.tiny, name="tuned", evaluate=True, num_train_epochs=1.0))
    for name in ("as-it-is", "once-more", "and-again"):
        cluster.enqueue(score_spec(cluster.tiny, name))
    array = cluster.sbatch("0-1")
    cluster.wait_for_success()
    cluster.wait_for_end(f"{array}_0", f"{array}_1")
    told = json.loads(cluster.jobspec("results", "--json"))["results"]
    assert len(told) == 4 and all("aime_demo" in str(row) for row in told)
    # Each node did some of it, and nothing of it is left: no process, no file off the root.
    hosts = {job.end.host for job in cluster.queue.jobs() if job.end is not None}
    assert hosts == {"n1", "n2"}
    assert processes_with(str(cluster.root)) == []
    assert cluster.slurm.left_on("n1") == cluster.slurm.left_on("n2") == []
    assert list(cluster.home.iterdir()) == []
    assert {path.name for path in cluster.root.iterdir()} >= {"slurm", "cache", "jobs", "queue"}


def test_an_element_over_two_nodes_trains_on_both(cluster: Cluster) -> None:
    """srun is on the host, the worker in the container: the script hands its requests on."""
    job = cluster.enqueue(tiny_spec(cluster.tiny, name="wide", num_train_epochs=1.0))
    element = f"{cluster.sbatch('0', '--nodes=2')}_0"
    cluster.wait_for_success()
    cluster.wait_for_end(element)
    attempt = job.paths.attempt(1)
    manifest = json.loads(attempt.manifest.read_bytes())
    assert (manifest["plan"]["nodes"], manifest["plan"]["world_size"]) == (2, 2)
    with Path(cluster.sif).open("rb") as image:
        assert manifest["image_sha256"] == hashlib.file_digest(image, "sha256").hexdigest()
    assert attempt.log("train").with_suffix(".node1.log").exists()
    assert processes_with(str(cluster.root)) == []
    assert cluster.slurm.left_on("n1") == cluster.slurm.left_on("n2") == []


def test_an_image_older_than_the_code_does_no_job(cluster: Cluster) -> None:
    """Compared on the login node, where the code is, and on the node, where the image runs."""
    image = cluster.slurm.call(cluster.apptainer, "inspect", "--labels", cluster.sif)
    assert f"org.opencontainers.image.version: {version('jobspec')}" in image
    element = f"{cluster.sbatch('0', '--export=ALL,JOBSPEC_VERSION=99.0')}_0"
    cluster.wait_for_end(element)
    assert cluster.slurm.state_of(element) == "FAILED"
    assert "the code is 99.0" in cluster.log(element) and "make container" in cluster.log(element)
