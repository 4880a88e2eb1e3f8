"""`jobspec run`: from a spec to scores by one command, and on after Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from jobspec.queue.queue import Queue
from jobspec.records.base import State
from tests.support.commands import ctrl_c_heard, environment, jobspec, jobspec_json
from tests.support.specs import score_spec, tiny_spec, write_spec

CALM = {"PYTHONWARNINGS": "default"}  # the training's libraries warn of their own code


def test_one_command_trains_scores_and_shows(tiny: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    other = Queue.create(root).enqueue(score_spec("other"), 90)
    spec = write_spec(tmp_path / "one.json", tiny_spec(tiny, evaluate=True, num_train_epochs=1))
    (job,) = jobspec_json("enqueue", spec, "--root", root)["jobs"]
    with (tmp_path / "log").open("w") as log, ctrl_c_heard():
        running = subprocess.Popen(
            [sys.executable, "-m", "jobspec.cli", "run", str(spec), "--root", str(root)],
            env=environment(**CALM),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        wait_for(root, job["job"], State.RUNNING)
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(60) == 1
    stopped = (tmp_path / "log").read_text()
    assert f"{job['job']} attempt 1: begins, logs in {root}" in stopped
    assert f"{job['job']} is pending again and " in stopped and "Traceback" not in stopped
    done = jobspec("run", spec, "--root", root, **CALM)
    assert "succeeded" in done.stdout and "AIME_DEMO AVG@2" in done.stdout
    assert f"model: {root}/jobs/{job['job']}/final_model" in done.stdout
    assert Queue(root).job(other.id).state is State.PENDING  # it is not this command's
    again = jobspec_json("run", spec, "--root", root)
    assert [row["job"] for row in again["results"]] == [job["job"]]


def wait_for(root: Path, job: str, state: State) -> None:
    until = time.monotonic() + 60
    while Queue(root).job(job).state is not state:
        assert time.monotonic() < until
        time.sleep(0.1)
