"""`jobspec relay` through the real wandb client, to a server on loopback that fails on request."""

from __future__ import annotations

import json
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from jobspec.queue.queue import Queue
from jobspec.relay.client import ClientProcess, Refused
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs
from tests.support.commands import jobspec_json
from tests.support.queues import claim_next, queue_at, scores
from tests.support.relays import Watching, Writing, json_of, later, lines, relay, start
from tests.support.specs import tuned_spec
from tests.support.wandb_server import KEY, Run, Server

pytestmark = pytest.mark.wandb


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return queue_at(tmp_path, lease_s=4.0)


def mishaps(what: str) -> int | str | None:
    """Three in ten requests go wrong in one way or another."""
    chance = random.random()
    if chance > 0.9:
        time.sleep(0.2)
    faults = ((0.05, 429), (0.1, 500), (0.15, "drop"), (0.2, "drop after"))
    return next((fault for below, fault in faults if chance < below), None)


def test_every_row_arrives_once_whatever_fails_or_is_killed(queue: Queue, server: Server) -> None:
    jobs = [start(queue, rate) for rate in (1e-5, 2e-5, 3e-5)]
    server.lag_s, server.fault = 0.3, mishaps
    with Watching(queue, server) as watching:  # while it sends: first its client, then all of it
        watching.until(lambda: grown(jobs, server) and lines(server) > 0)
        for process in psutil.Process(watching.pid).children():
            process.kill()
        before = lines(server)
        watching.until(lambda: grown(jobs, server) and lines(server) > before)
        watching.kill()
    with Watching(queue, server) as watching:  # wherever it is: it starts, counts, opens or sends
        ends = time.monotonic() + random.uniform(0, 6)
        watching.until(lambda: grown(jobs, server) and time.monotonic() > ends)
        watching.kill()
    with Watching(queue, server) as watching:
        watching.until(lambda: lines(server) == sum(job.seq for job in jobs))
        for job in jobs:
            job.finish(scores(0.5, 0.25))
        watching.until(lambda: len(server.runs) == 6)  # with those of the evaluations
        watching.until(lambda: all(ended(run) for run in server.runs.values()))
    for job in jobs:
        run = server.run(f"{job.job}-train")
        assert [(row["attempt"], row["seq"]) for row in run.rows] == [
            (1, n) for n in range(job.seq)
        ]
        assert [row["_step"] for row in run.rows] == list(range(job.seq))
        assert run.rewritten == 0
    server.fault = lambda what: None
    assert json_of(relay(queue, server, "--verify", "--json"))["exact"]


def ended(run: Run) -> bool:
    """Whether a run knows the end of its job; the end of training comes before that."""
    return run.exit_code == 0 and run.summary.get("job/state") == "succeeded"


def grown(jobs: list[Writing], server: Server) -> bool:
    """Let every job write a few rows more, as long as the server is not far behind."""
    if sum(job.seq for job in jobs) - lines(server) < 600:
        for job in jobs:
            job.steps(job.seq, job.seq + random.randint(0, 3))
    return True


def test_a_count_that_has_not_caught_up_with_a_killed_relay_is_not_believed(
    queue: Queue, server: Server
) -> None:
    job = start(queue)
    job.steps(0, 30)
    with Watching(queue, server) as watching:
        watching.until(lambda: lines(server) == 30)
        watching.kill()
    server.stale = 4  # three answers yet: it has none
    job.steps(30, 40)
    relay(queue, server, "--grace", "4")
    run = server.run(f"{job.job}-train")
    assert [row["seq"] for row in run.rows] == list(range(40)) and run.rewritten == 0


def test_what_the_client_calls_sent_is_sent_again_until_the_server_has_it(
    queue: Queue, server: Server
) -> None:
    """403 ends the client's uploader: `log()` and `finish()` go on as if all were well."""
    job = start(queue)
    job.steps(0, 40)
    refused = 0

    def forbid(what: str) -> int | None:
        nonlocal refused
        refused += what == "file_stream"
        return 403 if what == "file_stream" and refused <= 2 else None

    server.fault = forbid
    relay(queue, server)
    assert refused > 2
    assert [row["seq"] for row in server.run(f"{job.job}-train").rows] == list(range(40))


def test_a_job_from_its_first_row_to_its_scores(queue: Queue, server: Server) -> None:
    job = start(queue)
    job.row(step=0, epoch=0.0, eval_loss=2.5)
    job.steps(1, 6)
    id = job.job
    with Watching(queue, server) as watching:
        watching.until(lambda: lines(server) == 6)
        train = server.run(f"{id}-train")
        assert train.state == "running"
        job = job.requeue()
        job.row(resumed_from={"attempt": 1, "step": 3}, step=3)
        job.steps(4, 9)
        watching.until(lambda: (id, "train-2", 9) in found(server, id))
        assert train.state == "preempted" and train.facts["jobType"] == "superseded"
        job.row(phase="eval", epoch=1.0, **{"bench/aime24/avg_at_32": 0.1})
        job.row(phase="eval", epoch=2.0, **{"bench/aime24/avg_at_32": 0.25})
        job.finish(scores(0.5, 0.25), loss=0.1, eval_loss=2.0)
        watching.until(lambda: len(server.runs) == 3)
        last = [server.run(f"{id}-{kind}") for kind in ("train-2", "eval")]
        watching.until(lambda: all(run.summary.get("job/state") == "succeeded" for run in last))
        watching.until(lambda: all(run.state == "finished" for run in last))
    train, evaluation = last
    # Attempt 2 went on from step 3: the curve is that of the attempts that led to the end.
    assert [(row["attempt"], row["train/step"]) for row in train.rows] == [
        *((1, step) for step in range(4)),
        *((2, step) for step in range(4, 9)),
    ]
    assert train.rows[0]["train/eval_loss"] == 2.5
    assert [row["epoch"] for row in evaluation.rows] == [1.0, 2.0]
    assert axis(train.metrics, "train/*") == "train/step"
    assert axis(evaluation.metrics, "bench/*") == "epoch"
    assert evaluation.summary["bench/minerva_math500/math_verify"] == 0.5
    assert evaluation.summary["bench/aime24/avg_at_32"] == 0.25
    assert train.summary["train/step"] == 8
    stamp = queue.job(id).enqueued_at[:19].replace("T", "_").replace(":", "-")
    for run, kind in ((train, "train"), (evaluation, "eval")):
        assert run.facts["displayName"] == f"qwen3-8b-lr1e-5_{kind}_{stamp}"
        assert run.facts["groupName"] == f"qwen3-8b-lr1e-5_{stamp}"
        assert run.facts["jobType"] == kind
        assert run.config["spec"]["train"]["learning_rate"] == 1e-5
        assert run.config["manifest"]["code"]["commit"] == "c" * 40
    assert KEY not in everything_below(queue.paths.root)


def found(server: Server, job: str) -> set[tuple[str, str, int]]:
    with server.lock:
        return {(job, r.name.removeprefix(f"{job}-"), len(r.lines)) for r in server.runs.values()}


def axis(metrics: list[dict[str, object]], glob: str) -> object:
    """The x-axis of what `glob` names, as the client encodes it: 2 the glob, 5 the axis' number."""
    (place,) = [each["5"] for each in metrics if each.get("2") == glob]
    assert isinstance(place, int)
    return metrics[place - 1]["1"]


def everything_below(path: Path) -> str:
    files = [file for file in path.rglob("*") if file.is_file()]
    return "".join(file.read_bytes().decode("latin-1") for file in files)


def test_what_a_reaped_attempt_still_writes_is_neither_shown_nor_relayed(
    queue: Queue, server: Server
) -> None:
    job = start(queue)
    job.steps(0, 5)
    assert queue.reap(worker=job.claim.worker, now=True) == [job.job]
    job.steps(5, 9)  # it was only slow, and does not know yet
    fs.append(job.claim.dir.events, b'{"event": "beyond-its-end"}\n')
    fs.replace(job.claim.dir.progress, b'{"phase": "train", "done": 9, "total": 10}')
    relay(queue, server)
    run = server.run(f"{job.job}-train")
    assert [row["seq"] for row in run.rows] == list(range(5))
    (shown,) = jobspec_json("status", "--root", queue.paths.root)["jobs"]
    assert (shown["state"], shown["progress"], shown["metrics"]) == ("pending", None, {})
    after = Writing(queue, claim_next(queue, "other-0123456789abcdef"))
    after.row(resumed_from={"attempt": 1, "step": 4}, step=4, time=later(1))
    after.row(step=5, loss=0.5, time=later(2))
    job.steps(9, 12)
    relay(queue, server)
    assert [(row["attempt"], row["train/step"]) for row in run.rows] == [
        *((1, step) for step in range(5)),
        (2, 5),
    ]
    shown = jobspec_json("show", job.job, "--root", queue.paths.root)
    assert "beyond-its-end" not in json.dumps(shown)


def test_bad_rows_and_old_jobs_are_sent_bad_projects_named(queue: Queue, server: Server) -> None:
    server.forbidden.add("nowhere")
    server.closed.add("secret")
    nowhere, secret = start(queue, spec=sent_to("nowhere")), start(queue, spec=sent_to("secret"))
    odd, old = start(queue), start(queue, 3e-5)
    nowhere.steps(0, 3)
    secret.steps(0, 3)
    odd.row(step=0, loss=float("nan"), grad_norm=float("inf"))
    odd.row(step=1, loss=None)
    with odd.claim.dir.metrics.open("ab") as file:
        file.write(b'{"attempt": 1, "seq": 2, "phase": "train", "step": 2, "lo')
    old.claim.dir.metrics.write_bytes(b'{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n')
    fs.remove(old.claim.dir.manifest)
    fs.publish(queue.paths.job(old.job).enqueue, b"{}")
    done = relay(queue, server, "--json", code=1)
    closed, missing = sorted(json_of(done)["problems"], key=lambda text: nowhere.job in text)
    assert nowhere.job in missing and "project nowhere not found" in missing
    assert secret.job in closed and "permission denied" in closed
    first, second = server.run(f"{odd.job}-train").rows
    assert (
        str(first["train/loss"]).lower() == "nan" and "inf" in str(first["train/grad_norm"]).lower()
    )
    assert "train/loss" not in second and second["train/step"] == 1
    assert [row["train/loss"] for row in server.run(f"{old.job}-train").rows] == [3, 2]
    checked = json_of(relay(queue, server, odd.job, old.job, "--verify", "--json"))
    assert checked["exact"] and sum(run["arrived"] for run in checked["runs"]) == 4


def sent_to(project: str) -> JobSpec:
    spec = tuned_spec(rate=2e-5)
    return msgspec.structs.replace(
        spec, name=project, tracking=msgspec.structs.replace(spec.tracking, project=project)
    )


def test_a_run_deleted_on_the_server_is_named_and_sent_again_when_asked(
    queue: Queue, server: Server
) -> None:
    job = start(queue)
    job.steps(0, 5)
    relay(queue, server)
    server.delete(f"{job.job}-train")
    job.steps(5, 8)
    done = relay(queue, server, code=1)
    assert f"{job.job}-train" in done.stderr and "--resend" in done.stderr
    assert not server.runs
    assert relay(queue, server, "--verify", code=1).stdout.count("does not exist") == 1
    relay(queue, server, "--resend")
    assert [row["seq"] for row in server.run(f"{job.job}-train-2").rows] == list(range(8))


def test_a_run_that_was_renamed_on_the_server_keeps_its_name(queue: Queue, server: Server) -> None:
    job = start(queue)
    job.steps(0, 3)
    relay(queue, server)
    server.run(f"{job.job}-train").facts["displayName"] = "the good one"
    job.steps(3, 5)
    relay(queue, server)
    run = server.run(f"{job.job}-train")
    assert (len(run.lines), run.facts["displayName"]) == (5, "the good one")


def test_requests_that_are_too_large_are_split(queue: Queue, server: Server) -> None:
    job = start(queue)
    server.most_lines = 20
    job.steps(0, 60)
    relay(queue, server)
    run = server.run(f"{job.job}-train")
    assert [row["seq"] for row in run.rows] == list(range(60)) and run.rewritten == 0


def test_rows_arrive_soon_after_each_kind_of_outage(queue: Queue, server: Server) -> None:
    """Errors for some seconds, and a server that answers nothing; one relay lives through all."""
    job = start(queue)
    count = 0
    with Watching(queue, server) as watching:
        for fault in (500, 401, 403, "hang"):
            until = time.monotonic() + 4.0

            def fail(what: str, until: float = until, fault: int | str = fault) -> int | str | None:
                if fault == "hang":
                    time.sleep(max(0.0, until - time.monotonic()))
                    return None
                return fault if time.monotonic() < until else None

            job.steps(count, count + 3)
            count += 3
            server.fault = fail
            watching.until(lambda: lines(server) == count)  # noqa: B023 - called in this round
            assert time.monotonic() < until + 25, watching.said()
        said = watching.stop()
    run = server.run(f"{job.job}-train")
    assert [row["seq"] for row in run.rows] == list(range(count)) and run.rewritten == 0
    assert "401" in said and "403" in said and "trying again in" in said


def test_a_server_that_answers_nothing_useful_is_given_up(queue: Queue, server: Server) -> None:
    start(queue).steps(0, 3)
    server.fault = lambda what: 400 if what == "RelayCounts" else None
    done = relay(queue, server, "--stall", "2", code=1)
    assert "gave up: nothing arrived for 2 s" in done.stderr and "400" in done.stderr


def test_every_request_to_a_dead_client_fails_at_once_and_its_files_are_removed() -> None:
    """The end of its output is read once; later requests must not wait for it again."""
    client = ClientProcess(offline=True)
    try:
        psutil.Process(client.pid).kill()
        for op in ("count", "rows", "rows"):
            with pytest.raises(Refused, match="the client died"):
                client.ask(op, patience_s=10)
        assert not client.alive
    finally:
        client.kill()
    assert not client.dir.exists()
    client.kill()  # killing it again does nothing: another process may have its id


def test_a_second_relay_is_refused_and_a_killed_one_blocks_nobody(
    queue: Queue, server: Server
) -> None:
    job = start(queue)
    with Watching(queue, server) as watching:
        job.steps(0, 3)
        watching.until(lambda: lines(server) == 3)
        second = relay(queue, server, code=1)
        assert f"a relay is already running: process {watching.pid} on " in second.stderr
        clients = psutil.Process(watching.pid).children(recursive=True)
        assert clients
        watching.kill()
    # They would go on sending beside the next relay's.
    assert psutil.wait_procs(clients, timeout=20)[1] == []
    job.steps(3, 4)
    relay(queue, server)
    assert lines(server) == 4
    assert not left_by(watching)  # swept, by this relay or one that ran beside it


def left_by(relay: Watching) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"jobspec-relay-*-{relay.pid}-*"))


def test_a_relay_that_was_stopped_past_its_lease_writes_nothing_more(
    queue: Queue, server: Server
) -> None:
    job = start(queue)
    job.steps(0, 3)
    with Watching(queue, server) as watching:
        watching.until(lambda: lines(server) == 3)
        psutil.Process(watching.pid).suspend()
        job.steps(3, 6)
        relay(queue, server)
        cursors = everything_below(queue.paths.root / "relay" / "cursors")
        watching.process.send_signal(signal.SIGCONT)
        assert watching.process.wait(30) == 1
        assert "another relay took over" in watching.said()
    assert everything_below(queue.paths.root / "relay" / "cursors") == cursors
    assert [row["seq"] for row in server.run(f"{job.job}-train").rows] == list(range(6))


def test_without_a_key_or_without_wandb_it_says_what_to_do(
    queue: Queue, server: Server, tmp_path: Path
) -> None:
    nobody = {"WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    done = relay(queue, server, code=1, **nobody)
    assert "no W&B API key" in done.stderr and "WANDB_API_KEY" in done.stderr
    (tmp_path / "wandb.py").write_text("raise ModuleNotFoundError('No module named wandb')")
    path = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    done = relay(queue, server, code=1, **path)
    assert "pip install 'jobspec[relay]'" in done.stderr
    assert server.requests == []


def test_the_key_may_stand_in_netrc_and_runs_go_where_the_command_line_says(
    queue: Queue, server: Server, tmp_path: Path
) -> None:
    job = start(queue)
    job.steps(0, 2)
    netrc = tmp_path / "netrc"
    host = server.url.removeprefix("http://")
    netrc.write_text(f"machine {host}\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    there = ("--entity", "a-team", "--project", "sweep")
    relay(queue, server, *there, NETRC=str(netrc), WANDB_API_KEY="")
    ((entity, project, _),) = server.runs
    assert (entity, project, lines(server)) == ("a-team", "sweep", 2)
