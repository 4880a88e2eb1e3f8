"""`jobspec relay --offline`: files of the real wandb client, read back and synced by it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from jobspec.queue.queue import Queue
from jobspec.relay import wandb_file
from jobspec.relay.client import connect
from jobspec.relay.offline import Offline
from tests.support.commands import environment
from tests.support.queues import queue_at, scores
from tests.support.relays import json_of, relay, start
from tests.support.wandb_server import Server

pytestmark = pytest.mark.wandb


def read(path: Path) -> dict[str, Any]:
    """An offline run: its run record, rows, summary, exit code."""
    pb = import_module("wandb.proto.wandb_internal_pb2")
    read: dict[str, Any] = {"rows": [], "summary": {}, "axes": {}}
    for data in wandb_file.records(path):
        found = pb.Record.FromString(data)
        kind = found.WhichOneof("record_type")
        if kind == "run":
            read["run"] = found.run
            read["config"] = {i.key: json.loads(i.value_json) for i in found.run.config.update}
        elif kind == "history":
            read["rows"].append(items(found.history.item))
        elif kind == "summary":
            read["summary"] |= items(found.summary.update)
        elif kind == "metric":
            read["axes"][found.metric.glob_name or found.metric.name] = found.metric.step_metric
        elif kind == "exit":
            read["exit"] = found.exit.exit_code
    return read


def items(found: Any) -> dict[str, Any]:
    return {"/".join(each.nested_key) or each.key: json.loads(each.value_json) for each in found}


def test_offline_runs_hold_every_row_once_and_sync_brings_them_over(tmp_path: Path) -> None:
    queue = queue_at(tmp_path, lease_s=4.0)
    job, running = start(queue), start(queue, 2e-5)
    running.steps(0, 3)
    job.steps(0, 1200)
    job = job.requeue()
    job.row(resumed_from={"attempt": 1, "step": 999}, step=999)
    job.steps(1000, 1100)
    job.row(phase="eval", epoch=1.0, **{"bench/aime24/avg_at_32": 0.25})
    job.finish(scores(0.5, 0.25))
    written = [Path(path) for path in json_of(relay(queue, None, "--offline", "--json"))["written"]]
    assert {path.name.rpartition("-")[2] for path in written} == {"train", "eval"}
    train, evaluation = (read(next(path.glob("run-*.wandb"))) for path in written)
    assert [(row["attempt"], row["train/step"], row["_step"]) for row in train["rows"]] == [
        *((1, step, step) for step in range(1000)),
        *((2, step, step) for step in range(1000, 1100)),
    ]
    assert train["run"].run_id == f"{job.job}-train" and train["run"].job_type == "train"
    assert train["run"].run_group == evaluation["run"].run_group
    assert train["run"].display_name.startswith("qwen3-8b-lr1e-5_train_20")
    assert train["config"]["spec"]["name"] == "qwen3-8b-lr1e-5" and train["exit"] == 0
    assert train["axes"]["train/*"] == "train/step" and evaluation["axes"]["bench/*"] == "epoch"
    assert evaluation["summary"]["bench/minerva_math500/math_verify"] == 0.5
    assert evaluation["summary"]["bench/aime24/avg_at_32"] == 0.25
    # A second time there is nothing to write; what was killed before it was noted is not repeated.
    cursor = queue.paths.root / "relay" / "cursors" / "offline" / f"{job.job}.json"
    before = cursor.read_bytes()
    assert json_of(relay(queue, None, "--offline", "--json"))["written"] == []
    cursor.unlink()
    assert json_of(relay(queue, None, "--offline", "--json"))["written"] == []
    assert cursor.read_bytes() == before
    assert json_of(relay(queue, None, "--offline", "--verify", job.job, "--json"))["exact"]
    with Server() as server:
        sync(server, written, tmp_path)
        run = server.run(f"{job.job}-train")
        assert [row["train/step"] for row in run.rows] == list(range(1100)) and run.rewritten == 0
        assert run.state == "finished" and len(server.run(f"{job.job}-eval").rows) == 1


@pytest.mark.parametrize("left", ["nothing", "rows", "all but its end"])
def test_a_file_that_the_client_still_writes_is_waited_for(
    left: str, tmp_path: Path, offline: Offline, whole: bytes
) -> None:
    """Under load `finish` came back before a line of it was in the file."""
    file = tmp_path / "run-slow.wandb"
    there = {"nothing": 0, "rows": whole.rindex(b"loss"), "all but its end": len(whole) - 4}
    file.write_bytes(whole[: there[left]])
    rest = threading.Timer(0.3, lambda: file.write_bytes(whole))
    rest.start()
    assert offline.complete(file) == 40
    rest.join()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Queue:
    return queue_at(tmp_path_factory.mktemp("offline"), lease_s=4.0)


@pytest.fixture(scope="module")
def offline(root: Queue) -> Iterator[Offline]:
    link = connect(offline=True)
    yield Offline(root.paths, link, lambda text: None)
    link.kill()


@pytest.fixture(scope="module")
def whole(root: Queue, offline: Offline) -> bytes:
    """The file of a run of 40 rows."""
    job = start(root)
    job.steps(0, 40)
    job.finish(scores(0.5, 0.25))
    paths = offline.write(root.jobs(), lambda: None)
    return next(paths[0].glob("*-train.wandb")).read_bytes()


def sync(server: Server, paths: list[Path], cwd: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "wandb", "sync", *map(str, paths)]
    env = environment(**server.environment, PYTHONWARNINGS="ignore")
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_torn_file_is_read_to_its_tear_a_damaged_one_refused(tmp_path: Path) -> None:
    queue = queue_at(tmp_path, lease_s=4.0)
    job = start(queue)
    job.steps(0, 400)
    queue.cancel(job.job)
    (path,) = json_of(relay(queue, None, "--offline", "--json"))["written"]
    (file,) = Path(path).glob("run-*.wandb")
    data = file.read_bytes()
    assert len(read(file)["rows"]) == 400 and read(file)["exit"] == 1
    file.write_bytes(data[: len(data) // 2])
    assert 0 < len(read(file)["rows"]) < 400
    checked = json_of(relay(queue, None, "--offline", "--verify", "--json", code=1))
    assert checked["runs"][0]["missing"] and not checked["exact"]
    file.write_bytes(data[:40000] + bytes([data[40000] ^ 1]) + data[40001:])
    assert "damaged" in relay(queue, None, "--offline", "--verify", code=1).stderr
