"""One job on both nodes of a real Slurm: srun starts it, and it outlives srun's death."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from jobspec.monitoring import node_probes
from jobspec.records import base as records
from jobspec.records.attempt import End
from jobspec.records.base import Reason, State
from tests.support.models import hurry, patient_model
from tests.support.paths import REPOSITORY
from tests.support.queues import queue_at
from tests.support.slurm import NODES, Slurm
from tests.support.specs import tiny_spec, with_model
from tests.support.waiting import DEADLINE_S, until
from tests.support.workers import losses, ranks_of

pytestmark = [pytest.mark.slurm, pytest.mark.deepspeed]


def test_a_job_on_two_nodes_goes_on_after_its_srun_was_killed(
    slurm: Slurm, tiny: Path, tmp_path: Path
) -> None:
    queue = queue_at(tmp_path)
    model = patient_model(tiny, tmp_path, pace_s=0.1)
    spec = tiny_spec(tiny, num_train_epochs=2.0, checkpoint_interval_s=0.3)
    job = queue.enqueue(with_model(spec, model))
    script = tmp_path / "worker.sh"
    command = f"{sys.executable} -m worker --root {queue.paths.root} --drain --devices 1"
    script.write_text(f"#!/bin/bash\nexec {command}\n")
    log = tmp_path / "worker.log"
    asked = ["--nodes=2", "--ntasks-per-node=1", f"--chdir={REPOSITORY}", f"--output={log}"]
    number = slurm.call("sbatch", "--parsable", *asked, str(script))
    try:
        first, second = job.paths.attempt(1), job.paths.attempt(2)
        until(lambda: list(first.dir.glob("checkpoints/step-*/COMPLETE")), "a checkpoint")
        for pid in sruns_of(first.dir):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not ranks_of(first.dir), "both nodes to end their ranks", timeout_s=5.0)
        hurry(model)
        until(lambda: slurm.state_of(number) == "COMPLETED", "the worker's end", DEADLINE_S)
    finally:
        sys.stdout.write(log.read_text() if log.exists() else "no log")
        slurm.call("scancel", "--quiet", number)
    assert queue.job(job.id).state is State.SUCCEEDED
    end = records.read(first.end, End)
    assert end is not None and end.reason is Reason.NODE, end
    plan = msgspec.json.decode(second.manifest.read_bytes())["plan"]
    assert (plan["nodes"], plan["world_size"]) == (2, 2)
    assert sorted(losses(job.paths.dir)) == list(range(1, 39))
    assert second.log("train").with_suffix(".node1.log").exists()
    probes, _ = node_probes.read(queue.paths)
    assert [probe.host for probe in probes] == list(NODES) and all(p.matmul_tflops for p in probes)
    assert log.read_text().count(" node probe, ") == 2, "each node is measured once"


def sruns_of(attempt: Path) -> list[int]:
    """PIDs of the srun processes that hold an attempt's nodes."""
    found = []
    for pid in ranks_of(attempt):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if Path(arguments[0].decode()).name == "srun":
            found.append(pid)
    assert found
    return found
