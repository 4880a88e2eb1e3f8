"""`jobspec relay` to trackio: its own database, read back by trackio's own storage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.queue.queue import Queue
from jobspec.spec.schema import JobSpec
from tests.support.commands import environment
from tests.support.paths import REPOSITORY
from tests.support.queues import queue_at, scores
from tests.support.relays import json_of, relay, start, write_while_relays_are_killed
from tests.support.specs import tuned_spec

READ = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage as storage
project = sys.argv[1]
runs = {run["id"]: run["name"] for run in storage.get_run_records(project)}
print(json.dumps({id: {
    "id": id,
    "name": name,
    "logs": storage.get_logs(project, name, run_id=id),
    "config": storage.get_run_config(project, name, run_id=id),
} for id, name in runs.items()}, default=str))
"""
# No address can be reached: the relay must not try.
NO_NETWORK = """
import socket
def refuse(*args, **kwargs):
    print("NETWORK", args, flush=True)
    raise OSError("the test allows no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
socket.socket.bind = refuse
"""


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return queue_at(tmp_path, lease_s=4.0)


def spec_of(rate: float = 1e-5, **tracking: Any) -> JobSpec:
    spec = tuned_spec(rate=rate)
    changed = msgspec.structs.replace(spec.tracking, **{"sinks": ("trackio",), **tracking})
    return msgspec.structs.replace(spec, tracking=changed)


def store(queue: Queue) -> Path:
    return queue.paths.root / "relay" / "trackio"


def read(where: Path, project: str = "jobspec") -> dict[str, Any]:
    """The project's runs as trackio reads them, by their ids."""
    env = environment(TRACKIO_DIR=str(where))
    done = subprocess.run(
        [sys.executable, "-c", READ, project], env=env, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def steps(run: dict[str, Any]) -> list[int]:
    return [row["step"] for row in run["logs"]]


def test_a_job_becomes_two_runs_without_any_network(queue: Queue, tmp_path: Path) -> None:
    job = start(queue, spec=spec_of(project="sweep-1", group="rates"))
    job.row(step=0, epoch=0.0, eval_loss=2.5, note="text")
    job.steps(1, 6)
    job.row(step=6, loss=float("nan"), tokens=2**40)
    job.row(phase="eval", epoch=1.0, **{"bench/aime24/avg_at_32": 0.1})
    job.row(phase="eval", epoch=2.5, **{"bench/aime24/avg_at_32": 0.25})
    job.finish(scores(0.5, 0.25), loss=0.1)
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    alone = {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "WANDB_API_KEY": ""}
    elsewhere = {"TRACKIO_SPACE_ID": "someone/space", "TRACKIO_SERVER_URL": "http://127.0.0.1:1"}
    done = relay(queue, None, "--json", **alone, **elsewhere)
    assert json_of(done)["runs"] == {f"trackio/{job.job}-train": 7, f"trackio/{job.job}-eval": 2}
    assert "NETWORK" not in done.stdout + done.stderr
    runs = read(store(queue), "sweep-1")
    train, evaluation = runs[f"{job.job}-train"], runs[f"{job.job}-eval"]
    stamp = queue.job(job.job).enqueued_at[:19].replace("T", "_").replace(":", "-")
    assert train["name"] == f"qwen3-8b-lr1e-5_train_{stamp}"
    assert steps(train) == list(range(7)) and steps(evaluation) == [1, 2]
    assert train["logs"][0]["train/note"] == "text" and train["logs"][6]["train/tokens"] == 2**40
    assert train["logs"][1]["train/loss"] == 0.5
    assert train["logs"][6]["train/loss"] != train["logs"][6]["train/loss"]
    assert not {"attempt", "seq", "train/step", "_timestamp"} & train["logs"][1].keys()
    assert evaluation["logs"][1]["bench/aime24/avg_at_32"] == 0.25
    assert evaluation["config"]["bench/aime24/avg_at_32"] == 0.25
    for run in (train, evaluation):
        assert run["config"]["train.learning_rate"] == 1e-5
        assert run["config"]["_Group"] == "rates" and run["config"]["job/state"] == "succeeded"
    assert json_of(relay(queue, None, "--verify", "--json"))["exact"]


def test_every_step_is_there_once_wherever_the_relay_is_killed(queue: Queue) -> None:
    jobs = [start(queue, spec=spec_of(rate)) for rate in (1e-5, 2e-5)]
    write_while_relays_are_killed(queue, jobs, 4.0)
    runs = read(store(queue))
    for job in jobs:
        assert steps(runs[f"{job.job}-train"]) == list(range(job.seq))
    assert json_of(relay(queue, None, "--verify", "--json"))["exact"]


# Be killed at each statement that makes the database in turn, then go on with it.
KILLED = """
import json, os, sqlite3, sys
from pathlib import Path
from jobspec.relay.sink_trackio import TrackioClient

client = TrackioClient(Path(), Path(sys.argv[1]))
client.hello(True)
connect = sqlite3.connect

def make(project, statements):
    def before(statement):
        nonlocal statements
        if statements == 0:
            os._exit(9)
        statements -= 1
    def traced(*args, **kwargs):
        connection = connect(*args, **kwargs)
        connection.set_trace_callback(before)
        return connection
    sqlite3.connect = traced
    client._storage.init_db(project)
    os._exit(0)

index, killed, wrong = 0, True, []
while killed:
    project = f"p{index}"
    child = os.fork() or make(project, index)
    killed = os.waitpid(child, 0)[1] != 0
    try:
        assert client.count(None, project, ["a"]) == {"runs": {"a": None}}
        client.open("a", {"project": project, "name": "a"}, {}, [("train/step", "train/*")])
        client.rows("a", 0, [{"attempt": 1, "seq": 0, "train/step": 3, "train/loss": 0.5}])
        assert client.count(None, project, ["a"])["runs"]["a"]["count"] == 1
    except Exception as error:
        wrong.append(f"{index}: {error!r}")
    index += 1
print(json.dumps({"killed": index, "wrong": wrong}))
"""


def test_a_database_whose_making_was_killed_anywhere_is_completed(tmp_path: Path) -> None:
    """trackio commits its tables, columns and indices one by one."""
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["wrong"] == [] and found["killed"] > 20


@pytest.mark.parametrize("cursors", ["behind", "lost"])
def test_rows_written_before_the_cursor_was_saved_are_not_written_again(
    queue: Queue, cursors: str
) -> None:
    """As if the relay was killed after the rows were written and before it noted that."""
    job = start(queue, spec=spec_of())
    job.steps(0, 50)
    relay(queue, None)
    saved = queue.paths.root / "relay" / "cursors"
    if cursors == "behind":
        (file,) = saved.glob(f"*/{job.job}.json")
        cursor = json.loads(file.read_text())
        cursor["runs"]["train"] |= {"confirmed": 30, "clean": False, "told": ""}
        file.write_text(json.dumps(cursor))
    else:
        shutil.rmtree(saved)
    job.steps(50, 60)
    relay(queue, None)
    (run,) = read(store(queue)).values()
    assert steps(run) == list(range(60)) and run["id"] == f"{job.job}-train"


def test_an_attempt_that_goes_back_replaces_the_run(queue: Queue) -> None:
    job = start(queue, spec=spec_of())
    job.steps(0, 9)
    relay(queue, None)
    job = job.requeue()
    job.row(resumed_from={"attempt": 1, "step": 3}, step=3)
    job.steps(4, 12)
    relay(queue, None)
    (run,) = read(store(queue)).values()
    assert run["id"] == f"{job.job}-train-2" and steps(run) == list(range(12))


def test_a_value_that_was_changed_is_found_and_another_directory_can_be_used(
    queue: Queue, tmp_path: Path
) -> None:
    job = start(queue, spec=spec_of())
    job.steps(0, 5)
    there = ("--trackio", str(tmp_path / "there"))
    relay(queue, None, *there)
    assert steps(read(tmp_path / "there")[f"{job.job}-train"]) == list(range(5))
    assert not store(queue).exists()
    path = job.claim.dir.metrics
    rows = path.read_text().splitlines()
    rows[3] = json.dumps(json.loads(rows[3]) | {"loss": 0.250001})
    path.write_text("\n".join(rows) + "\n")
    (run,) = json_of(relay(queue, None, "--verify", "--json", *there, code=1))["runs"]
    assert (run["sink"], run["different"]) == ("trackio", [3])


def test_without_its_package_the_relay_names_the_command(queue: Queue, tmp_path: Path) -> None:
    start(queue, spec=spec_of()).steps(0, 2)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['trackio'] = None\n")
    done = relay(queue, None, code=1, PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    assert "pip install 'jobspec[trackio]'" in done.stderr
