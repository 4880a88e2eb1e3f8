"""`jobspec relay` to TensorBoard: event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import json
import shutil
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.queue.queue import Queue
from jobspec.relay.sink_tensorboard import TensorBoardClient
from jobspec.spec import builder
from jobspec.spec.schema import JobSpec, TrackingSpec
from tests.support.commands import jobspec
from tests.support.paths import REPOSITORY
from tests.support.queues import queue_at, scores
from tests.support.relays import (
    Watching,
    Writing,
    json_of,
    lines,
    relay,
    start,
    write_while_relays_are_killed,
)
from tests.support.specs import base_spec, tuned_spec
from tests.support.wandb_server import Server

AXES = [("train/step", "train/*")]
NOBODY = {"WANDB_API_KEY": "", "WANDB_BASE_URL": "http://127.0.0.1:1"}


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return queue_at(tmp_path, lease_s=4.0)


def sent_to(*sinks: str, rate: float = 1e-5) -> JobSpec:
    spec = tuned_spec(rate=rate)
    tracking = msgspec.structs.replace(spec.tracking, sinks=sinks)
    return msgspec.structs.replace(spec, tracking=tracking)


def store(queue: Queue) -> Path:
    return queue.paths.root / "relay" / "tensorboard"


def read(path: Path) -> Any:
    """A run as TensorBoard reads it."""
    accumulators = import_module("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulators.EventAccumulator(str(path), size_guidance={"scalars": 0})
    reader.Reload()
    return reader


def steps(path: Path, tag: str = "train/loss") -> list[int]:
    reader = read(path)
    return [event.step for event in reader.Scalars(tag)] if tag in reader.Tags()["scalars"] else []


def events(path: Path) -> list[Path]:
    return sorted(path.glob("events.out.tfevents.*"))


# Runs


def test_a_job_becomes_two_runs_with_steps_times_settings_and_summary(queue: Queue) -> None:
    job = start(queue, spec=sent_to("tensorboard"))
    job.row(step=0, epoch=0.0, eval_loss=2.5, note="text")
    job.steps(1, 6)
    job.row(step=6, loss=float("nan"), grad_norm=float("inf"), tokens=2**40)
    job.row(phase="eval", epoch=1.0, **{"bench/aime24/avg_at_32": 0.1})
    job.row(phase="eval", epoch=2.5, **{"bench/aime24/avg_at_32": 0.25})
    job.finish(scores(0.5, 0.25), loss=0.1)
    done = relay(queue, None, "--json", **NOBODY)  # no key is needed
    assert json_of(done)["runs"] == {
        f"tensorboard/{job.job}-train": 7,
        f"tensorboard/{job.job}-eval": 2,
    }
    train, evaluation = (read(store(queue) / f"{job.job}-{kind}") for kind in ("train", "eval"))
    loss = train.Scalars("train/loss")
    assert [(e.step, round(e.value, 4)) for e in loss[:2]] == [(1, 0.5), (2, 0.3333)]
    assert [e.step for e in loss] == list(range(1, 7)) and loss[-1].value != loss[-1].value
    assert abs(loss[0].wall_time - time.time()) < 300
    assert [(e.step, e.value) for e in train.Scalars("train/eval_loss")] == [(0, 2.5)]
    assert train.Scalars("train/tokens")[0].value == 2**40
    assert not {"attempt", "seq", "train/step", "_timestamp"} & set(train.Tags()["scalars"])
    scored = evaluation.Scalars("bench/aime24/avg_at_32")
    assert [(e.step, round(e.value, 4)) for e in scored] == [(1, 0.1), (2, 0.25)]
    (summary,) = evaluation.Tensors("job/summary")
    text = summary.tensor_proto.string_val[0].decode()
    assert "| job/state | succeeded |" in text and "| bench/aime24/avg_at_32 | 0.25 |" in text
    assert hparams(train)["train.learning_rate"] == 1e-5
    assert json_of(relay(queue, None, "--verify", "--json", **NOBODY))["exact"]
    assert json_of(relay(queue, None, "--json", **NOBODY))["runs"] == {}


def hparams(reader: Any) -> dict[str, Any]:
    metadata = import_module("tensorboard.plugins.hparams.metadata")
    content = reader.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    info = metadata.parse_session_start_info_plugin_data(content)
    return {name: value.number_value for name, value in info.hparams.items()}


def test_an_attempt_that_goes_back_replaces_the_run(queue: Queue) -> None:
    job = start(queue, spec=sent_to("tensorboard"))
    job.steps(0, 9)
    relay(queue, None)
    assert steps(store(queue) / f"{job.job}-train") == list(range(9))
    job = job.requeue()
    job.row(resumed_from={"attempt": 1, "step": 3}, step=3)
    job.steps(4, 12)
    relay(queue, None)
    (run,) = store(queue).iterdir()
    assert run.name == f"{job.job}-train-2" and steps(run) == list(range(12))


def test_each_job_goes_where_its_spec_or_the_command_says(queue: Queue, tmp_path: Path) -> None:
    with Server() as server:
        both = start(queue, spec=sent_to("wandb", "tensorboard"))
        default = start(queue, spec=sent_to("wandb", rate=2e-5))
        for job in (both, default):
            job.steps(0, 5)
        done = relay(queue, server)
        assert "2 runs checked, 10 rows at W&B" in done.stderr
        assert "1 run checked, 5 rows in TensorBoard" in done.stderr
        assert lines(server) == 10
        assert [path.name for path in store(queue).iterdir()] == [f"{both.job}-train"]
        shown = json_of(relay(queue, server, "--verify", "--json"))
        assert shown["exact"] and len(shown["runs"]) == 3
        asked = len(server.requests)
        there = tmp_path / "elsewhere"
        relay(queue, server, "--sink", "tensorboard", "--tensorboard", str(there))
        assert len(server.requests) == asked
    assert {path.name for path in there.iterdir()} == {f"{j.job}-train" for j in (both, default)}
    assert all(steps(path) == list(range(5)) for path in there.iterdir())
    wrong = relay(queue, None, "--offline", "--sink", "tensorboard", code=1)
    assert "W&B only" in wrong.stderr


def test_a_watching_relay_starts_a_destination_that_a_later_job_names(queue: Queue) -> None:
    with Server() as server, Watching(queue, server) as watching:
        first = start(queue, spec=sent_to("wandb"))
        first.steps(0, 3)
        watching.until(lambda: lines(server) == 3)
        later = start(queue, spec=sent_to("tensorboard", rate=2e-5))
        later.steps(0, 4)
        watching.until(lambda: steps_so_far(queue, later) == list(range(4)))


def steps_so_far(queue: Queue, job: Writing) -> list[int]:
    path = store(queue) / f"{job.job}-train"
    return steps(path) if events(path) else []


# Exactly once


def test_every_step_is_there_once_wherever_the_relay_is_killed(queue: Queue) -> None:
    jobs = [start(queue, spec=sent_to("tensorboard", rate=rate)) for rate in (1e-5, 2e-5)]
    write_while_relays_are_killed(queue, jobs, 3.0)
    for job in jobs:
        assert steps(store(queue) / f"{job.job}-train") == list(range(job.seq))
    assert json_of(relay(queue, None, "--verify", "--json"))["exact"]


@pytest.mark.parametrize("cursors", ["behind", "lost"])
def test_rows_written_before_the_cursor_was_saved_are_not_written_again(
    queue: Queue, cursors: str
) -> None:
    """As if the relay was killed after the rows were written and before it noted that."""
    job = start(queue, spec=sent_to("tensorboard"))
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
    (run,) = store(queue).iterdir()
    assert steps(run) == list(range(60)) and run.name == f"{job.job}-train"


def client_at(path: Path) -> TensorBoardClient:
    client = TensorBoardClient(path, path)
    client.hello(offline=False)
    return client


def some_rows(first: int, beyond: int) -> list[dict[str, Any]]:
    return [
        {"train/step": n, "train/loss": 1 / (n + 1), "attempt": 1, "seq": n, "_timestamp": 1e9 + n}
        for n in range(first, beyond)
    ]


def test_a_file_torn_at_any_byte_of_its_last_rows_is_continued_in_a_new_one(tmp_path: Path) -> None:
    client = client_at(tmp_path / "whole")
    client.open("r", {}, {}, AXES)
    client.rows("r", 0, some_rows(0, 8))
    (file,) = events(tmp_path / "whole" / "r")
    data = file.read_bytes()
    before = len(data) - 250
    assert steps(file.parent) == list(range(8))
    for cut in range(before, len(data)):
        torn = tmp_path / str(cut)
        shutil.copytree(tmp_path / "whole", torn)
        (torn / "r" / file.name).write_bytes(data[:cut])
        arrived = steps(torn / "r")
        client = client_at(torn)
        held = client.count(None, "p", ["r"])["runs"]["r"]
        assert held["count"] == len(arrived) and 3 < held["count"] < 8
        assert held["tail"] == {"_step": arrived[-1], "attempt": 1, "seq": arrived[-1]}
        first = client.open("r", {}, {}, AXES)["starting_step"]
        client.rows("r", first, some_rows(first, 12))
        assert steps(torn / "r") == list(range(12))


def test_rows_that_would_repeat_or_leave_a_gap_are_refused(tmp_path: Path) -> None:
    client = client_at(tmp_path)
    client.open("r", {}, {}, AXES)
    client.rows("r", 0, some_rows(0, 3))
    for first in (2, 4):
        with pytest.raises(ValueError, match="would follow 3 lines"):
            client.rows("r", first, some_rows(first, first + 1))
    assert steps(tmp_path / "r") == [0, 1, 2]


def test_files_that_go_while_a_run_is_open_are_missed(tmp_path: Path) -> None:
    client = client_at(tmp_path)
    client.open("r", {}, {}, AXES)
    client.rows("r", 0, some_rows(0, 3))
    shutil.rmtree(tmp_path / "r")
    assert client.count(None, "p", ["r"])["runs"]["r"] is None
    with pytest.raises(ValueError, match="would follow 0 lines"):
        client.rows("r", 3, some_rows(3, 4))


def test_a_run_that_the_user_deleted_is_named_and_written_again_when_asked(queue: Queue) -> None:
    job = start(queue, spec=sent_to("tensorboard"))
    job.steps(0, 5)
    relay(queue, None)
    shutil.rmtree(store(queue) / f"{job.job}-train")
    job.steps(5, 7)
    done = relay(queue, None, "--grace", "0.2", code=1)
    assert f"{job.job}-train" in done.stderr and "--resend" in done.stderr
    relay(queue, None, "--resend")
    assert steps(store(queue) / f"{job.job}-train-2") == list(range(7))


def test_verify_finds_a_value_that_differs(queue: Queue) -> None:
    job = start(queue, spec=sent_to("tensorboard"))
    job.steps(0, 5)
    relay(queue, None)
    path = job.claim.dir.metrics
    rows = path.read_text().splitlines()
    rows[3] = json.dumps(json.loads(rows[3]) | {"loss": 0.2501})
    path.write_text("\n".join(rows) + "\n")
    (run,) = json_of(relay(queue, None, "--verify", "--json", code=1))["runs"]
    assert (run["sink"], run["different"]) == ("tensorboard", [3])


# What is refused


def test_without_its_package_enqueue_warns_and_the_relay_names_the_command(
    queue: Queue, tmp_path: Path
) -> None:
    job = start(queue, spec=sent_to("tensorboard"))
    job.steps(0, 2)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['tensorboard'] = None\n")
    path = {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    done = relay(queue, None, code=1, **path)
    assert "pip install 'jobspec[tensorboard]'" in done.stderr
    sinks = TrackingSpec(sinks=("wandb", "tensorboard"))
    ((spec, _),) = builder.write([base_spec(tracking=sinks)], tmp_path)
    told = jobspec("enqueue", spec, "--root", queue.paths.root, **path).stderr
    assert "names `tensorboard`" in told and "pip install 'jobspec[tensorboard]'" in told
    told = jobspec("enqueue", spec, "--root", queue.paths.root).stderr
    assert "pip install" not in told


def test_a_directory_that_cannot_be_written_is_named(queue: Queue, tmp_path: Path) -> None:
    start(queue, spec=sent_to("tensorboard")).steps(0, 2)
    (tmp_path / "file").write_text("")
    done = relay(queue, None, "--tensorboard", str(tmp_path / "file" / "tb"), code=1)
    assert str(tmp_path / "file" / "tb") in done.stderr and "can you write there?" in done.stderr


def test_an_unknown_destination_is_refused_with_the_choices(tmp_path: Path) -> None:
    spec = {"name": "a", "model": {"name": "m"}, "tracking": {"sinks": ["wandb", "tensorbord"]}}
    (tmp_path / "a.json").write_text(json.dumps(spec))
    done = jobspec("validate", tmp_path / "a.json", code=1)
    assert "$.tracking.sinks[1]" in done.stderr and "tensorbord" in done.stderr
    assert "choose one of" in done.stderr and "`tensorboard`" in done.stderr
