"""A cluster with an image: started once for all tests here; each has a root of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import cluster as clusterkit
from tests.support import servers
from tests.support import slurm as slurmkit

APPTAINER = "JOBSPEC_TEST_APPTAINER"  # the program, and the image it runs: `build-sif` makes it
SIF = "JOBSPEC_TEST_SIF"


@pytest.fixture(scope="session")
def slurm() -> Iterator[slurmkit.Slurm]:
    yield from servers.started(slurmkit.missing, slurmkit.running, "sl-")


@pytest.fixture
def cluster(slurm: slurmkit.Slurm, tiny: Path) -> Iterator[clusterkit.Cluster]:
    """Two nodes, a fresh root, `site.env` by `jobspec setup`, and the image."""
    apptainer, sif = os.environ.get(APPTAINER), os.environ.get(SIF)
    if not apptainer or not sif:
        pytest.skip(f"needs ${APPTAINER} and ${SIF}: tests/integration/cluster/build-sif")
    with tempfile.TemporaryDirectory(prefix="root-", ignore_cleanup_errors=True) as base:
        made = clusterkit.Cluster(slurm, Path(base), tiny, apptainer=apptainer, sif=sif)
        made.setup()
        try:
            yield made
        finally:
            made.end()
