"""A port that was free a moment ago and is taken now: a code of its own, and another try."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from jobspec.queue.queue import Queue
from jobspec.records import exit_codes
from jobspec.records.base import State
from tests.support.paths import REPOSITORY
from tests.support.specs import score_spec
from worker import phases
from worker.host.devices import WorkerDevices
from worker.supervisor.attempt import Attempt
from worker.supervisor.worker import Worker, WorkerOptions

# Finds its port taken as often as it was told, then does its work.
PHASE = """
import pathlib, sys
tries = pathlib.Path(__file__).with_name("tries")
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
if len(tries.read_text()) <= TAKEN:
    sys.exit(98)
(pathlib.Path(sys.argv[1]) / "eval.json").write_text('{"metrics": {}, "protocol": {}}')
"""


@pytest.mark.parametrize(("taken", "state"), [(2, State.SUCCEEDED), (3, State.PENDING)])
def test_a_phase_is_started_again_at_another_port_three_times_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int, state: State
) -> None:
    (tmp_path / "finds_it_taken.py").write_text(PHASE.replace("TAKEN", str(taken)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(REPOSITORY))))
    *others, last = phases.PHASES
    tried = dataclasses.replace(last, module="finds_it_taken")
    monkeypatch.setattr(phases, "PHASES", (*others, tried))
    queue = Queue.create(tmp_path / "root")
    job = queue.enqueue(score_spec())
    worker = Worker(queue, WorkerOptions(), WorkerDevices(1))
    try:
        worker.send_heartbeat()
        claim = queue.claim(worker.id)
        assert claim is not None
        Attempt(worker, claim).run()
    finally:
        shutil.rmtree(worker.tmp)
    assert (tmp_path / "tries").read_text() == "xxx"
    assert queue.job(job.id).state is state
    lines = job.paths.attempt(1).events.read_bytes().splitlines()
    events = [msgspec.json.decode(line) for line in lines]
    codes = [event["exit_code"] for event in events if event["event"] == "end"]
    assert codes == [exit_codes.PORT_IN_USE] * taken + [0] * (3 - taken)


def test_a_busy_port_is_distinguished_from_other_errors() -> None:
    code = (
        "import sys\nfrom worker.training import rendezvous\n"
        "sys.exit(0 if rendezvous.join('gloo') else 98)"
    )
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(other.getsockname()[1])}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            env={**os.environ, **place, "RANK": "0", "WORLD_SIZE": "1"},
            capture_output=True,
            check=False,
        )
    assert done.returncode == exit_codes.PORT_IN_USE, done.stderr.decode()
