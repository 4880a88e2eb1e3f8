"""The real commands on a queue: status, show, logs, results, transitions, wait, completion."""

from __future__ import annotations

import getpass
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobspec.queue.queue import Queue
from jobspec.records.attempt import Result
from jobspec.records.base import Reason, State, encode
from jobspec.records.queue_files import Enqueued
from jobspec.records.reports import ScoringProtocol, TrainReport
from jobspec.storage import fs
from tests.support.commands import Talking, environment, jobspec, jobspec_json
from tests.support.queues import (
    WORKER,
    claim_next,
    ended,
    enqueue_and_claim,
    fail,
    none_running,
    queue_at,
    report_progress,
    scores,
    send_heartbeat,
    succeed,
)
from tests.support.specs import base_spec, tuned_spec


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return queue_at(tmp_path, lease_s=1.0, heartbeat_s=0.2)


def on(queue: Queue, *args: str | Path, code: int | None = 0, **env: str) -> str:
    return jobspec(*args, "--root", queue.paths.root, code=code, **env).stdout


def busy_queue(queue: Queue) -> None:
    """One job in every state, and one that came back."""
    none_running(queue)
    report_progress(
        enqueue_and_claim(queue, base_spec(notes="4")), 43, loss=0.41234, tokens_per_second=5210.0
    )


def test_status_of_an_empty_queue_and_of_none(queue: Queue, tmp_path: Path) -> None:
    assert "0 jobs" in on(queue, "status")
    done = jobspec("status", "--root", tmp_path / "none", code=1)
    assert "there is no queue here" in done.stderr
    assert "hint: `jobspec enqueue` creates one" in done.stderr
    above = jobspec("status", "--root", queue.paths.root.parent, code=1)
    assert f"hint: there is one in {queue.paths.root}: name it" in above.stderr


def test_status_in_json_is_not_cut(queue: Queue) -> None:
    for n in range(20):
        succeed(queue, base_spec(notes=str(n)), scores(0.9, 0.5))
    found = jobspec_json("status", "--root", queue.paths.root)
    assert found["counts"]["succeeded"] == 20 and len(found["jobs"]) == 20
    text = on(queue, "status")
    assert "and 8 succeeded more" in text
    assert on(queue, "status", "--all").count(" succeeded  1h") == 20


def test_status_of_some_jobs(queue: Queue) -> None:
    busy_queue(queue)
    states = {row["state"] for row in jobspec_json("status", "--state", "failed", "--state",
              "pending", "--root", queue.paths.root)["jobs"]}  # fmt: skip
    assert states == {"failed", "pending"}
    rows = jobspec_json("status", "olmo*", "--root", queue.paths.root)["jobs"]
    assert [row["name"] for row in rows] == ["olmo-3-7b-think-base"]
    assert "no job `nope`" in jobspec("status", "nope", "--root", queue.paths.root, code=1).stderr


def test_status_names_users_if_there_are_several_and_shows_ones_own(queue: Queue) -> None:
    mine, other = queue.enqueue(base_spec(name="own")), queue.enqueue(base_spec(name="other"))
    assert "USER" not in on(queue, "status")
    record = Enqueued(enqueued_at=other.enqueued_at, user="ada")
    fs.publish(other.paths.enqueue, encode(record))
    table = on(queue, "status")
    assert "USER" in table and re.search(r"^other-.* ada\b", table, re.MULTILINE)
    own = json.loads(on(queue, "status", "--mine", "--json"))
    assert [row["job"] for row in own["jobs"]] == [mine.id]
    assert own["jobs"][0]["user"] == getpass.getuser() and own["counts"]["pending"] == 2


def test_status_has_colours_only_where_they_are_wanted(queue: Queue) -> None:
    busy_queue(queue)
    assert "\x1b[" not in on(queue, "status", NO_COLOR="")
    assert "\x1b[32m" in on(queue, "status", NO_COLOR="", FORCE_COLOR="1")


def test_show_tells_of_every_attempt(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    claim.end(
        ended(Reason.OOM, message="CUDA out of memory at step 3", hint="zero_stage 3", step=3)
    )
    claim.requeue("oom")
    claim_next(queue)
    text = on(queue, "show", claim.job[:9])
    text = " ".join(text.split())
    for part in ("out of memory", "CUDA out of memory at step 3", "hint: zero_stage 3", "1h 00m",
                 "still running", "0.8s", 'model.name "Qwen/Qwen3-8B"'):  # fmt: skip
        assert part in text, part
    found = jobspec_json("show", claim.job, "--root", queue.paths.root)
    assert [a["reason"] for a in found["attempts"]] == ["oom", None]
    assert found["spec"]["model"]["name"] == "Qwen/Qwen3-8B"


def test_show_begins_with_losses_scores_and_the_model(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    train = TrainReport(
        model_dir="final_model", steps=190, epochs=10.0, tokens=275_040, train_s=30.0,
        loss_first=5.81, loss=0.5, eval_loss_first=5.7, eval_loss=0.75,
    )  # fmt: skip
    metrics = {"bench/aime24/avg_at_2": 0.75, "bench/aime24/stderr": 0.05}
    protocol = {"aime24": ScoringProtocol(questions=30)}
    done = Result(
        job=claim.job, attempt=1, metrics={**metrics, "bench/aime24/maj_at_2": 0.8},
        train=train, protocol=protocol,
    )  # fmt: skip
    claim.finish("succeeded", done)
    text = on(queue, "show", claim.job)
    facts = dict(line.split(maxsplit=1) for line in text.split("\n\n")[0].splitlines())
    assert facts["loss"] == "training 5.81 → 0.5, held out 5.7 → 0.75"
    assert facts["trained"] == "190 steps, 10 epochs, 275,040 tokens in 30s"
    assert facts["model"] == str(queue.paths.job(claim.job).dir / "final_model")
    (row,) = [line for line in text.splitlines() if line.startswith("aime24")]
    assert row.split()[:3] == ["aime24", "avg_at_2", "0.750"] and row.split()[-1] == "30"
    assert "maj_at_2" not in text
    assert "maj_at_2" in on(queue, "show", claim.job, "--all")


def test_logs_leave_out_bars_and_warnings_unless_raw(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    bar = "Loading:  50%|█   | 1/2 [00:00<00:00, 3it/s]\n"
    claim.dir.log("train").write_text(f"{bar}train: 1 of 2 steps\n")
    assert on(queue, "logs", claim.job) == "train: 1 of 2 steps\n"
    assert on(queue, "logs", claim.job, "--raw") == f"{bar}train: 1 of 2 steps\n"
    (log,) = jobspec_json("logs", claim.job, "--root", queue.paths.root)["logs"]
    assert log["text"].startswith("Loading")


def test_logs_of_the_last_attempt_phase_after_phase(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    claim.dir.log("eval").write_text("scoring\n")
    claim.dir.log("prepare").write_text("preparing\n")
    assert on(queue, "logs", claim.job) == "preparing\nscoring\n"
    claim.dir.log("convert").write_text("converting\n")
    assert on(queue, "logs", claim.job) == "preparing\nconverting\nscoring\n"
    assert on(queue, "logs", claim.job, "--phase", "convert") == "converting\n"
    claim.dir.log("train", node=1).write_text("training on the second node\n")
    assert on(queue, "logs", claim.job, "--node", "1") == "training on the second node\n"
    (log,) = jobspec_json("logs", claim.job, "--node", "1", "--root", queue.paths.root)["logs"]
    assert log["phase"] == "train"
    claim.end(ended(Reason.PREEMPTED))
    claim.requeue("preempted")
    again = claim_next(queue)
    again.dir.log("eval").write_text("scoring again\n")
    assert on(queue, "logs", claim.job) == "scoring again\n"
    assert on(queue, "logs", claim.job, "--attempt", "1") == "preparing\nconverting\nscoring\n"
    (log,) = jobspec_json("logs", claim.job, "--root", queue.paths.root)["logs"]
    assert (log["attempt"], log["phase"], log["text"]) == (2, "eval", "scoring again\n")
    assert (
        "no attempt 7"
        in jobspec("logs", claim.job, "--attempt", "7", "--root", queue.paths.root, code=1).stderr
    )


def test_logs_follow_through_phases_and_attempts_until_the_end(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    claim.dir.log("prepare").write_text("one\n")
    with Talking("logs", claim.job, "-f", "--root", queue.paths.root) as follower:
        assert follower.line() == "one\n"
        with claim.dir.log("prepare").open("a") as log:
            log.write("two\n")
        assert follower.line() == "two\n"
        claim.end(ended(Reason.PREEMPTED))
        claim.requeue("preempted")
        again = claim_next(queue)
        again.dir.log("eval").write_text("three\n")
        assert follower.line() == "three\n"
        again.dir.log("eval").write_text("three\nfour\n")
        again.end(ended(Reason.SUCCEEDED))
        again.finish("succeeded")
        rest, talk, code = follower.end()
    assert (rest, code) == ("four\n", 0)
    assert "--- attempt 2, eval" in talk and "succeeded" in talk


def results_queue(queue: Queue) -> None:
    succeed(queue, tuned_spec(rate=1e-5), scores(0.95, 0.75, truncated=0.3))
    succeed(queue, base_spec(), scores(0.93, 0.7))


def test_results_with_the_base_model_beside(queue: Queue) -> None:
    results_queue(queue)
    done = jobspec("results", "--root", queue.paths.root, COLUMNS="80")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["MODEL", "STATE", "LR", "MATH500", "AIME24", "AVG@32"]
    assert lines[1].split()[:4] == ["Qwen/Qwen3-8B", "succeeded", "base", "0.930"]
    # Wilson's, of 0.95 · 0.05/0.008² = 742 samples, and of 0.75 · 0.25/0.061² = 50.
    assert "0.950 [0.93, 0.96]*" in lines[2] and "0.750 [0.62, 0.85]*!" in lines[2]
    assert "cut off by length" in done.stderr


def test_results_for_machines_and_papers(queue: Queue) -> None:
    results_queue(queue)
    rows = jobspec_json("results", "--root", queue.paths.root)["results"]
    assert [row["learning_rate"] for row in rows] == [None, 1e-5]
    assert on(queue, "results", "--csv").splitlines()[0].startswith("job,name,model,learning_rate")
    table = on(queue, "results", "--markdown")
    assert "| Qwen/Qwen3-8B | succeeded | 1e-5 | **0.950 [0.93, 0.96]** |" in table
    # 0.7 · 0.3/0.012² = 1458 samples: (0.7 + z²/2916 + z√(0.21/1458 + z²/2916²))/(1 + z²/1458).
    assert rows[0]["scores"]["aime24"]["sampling_high"] == pytest.approx(0.722969, abs=1e-6)


def test_results_in_latex_compile_by_their_looks(queue: Queue) -> None:
    succeed(queue, tuned_spec(model="a_b/c%"), scores(0.95, 0.75))
    succeed(queue, base_spec(name="calibrate-qwen3-8b-thinking"), scores(0.93, 0.7))
    text = on(queue, "results", "--latex")
    assert r"Qwen/Qwen3-8B & calibrated & 20 & 0.930 {\small [0.91, 0.94]}" in text
    assert r"a\_b/c\% & 1e-5 & -- & \textbf{0.950 {\small [0.93, 0.96]}}" in text
    assert text.count(r"\\") == 3 and text.count(r"\midrule") == 2
    assert text.count("{") == text.count("}")


def test_results_of_nothing(queue: Queue) -> None:
    done = jobspec("results", "--root", queue.paths.root)
    assert done.stdout == "" and "no runs yet" in done.stderr


def test_cancel_and_retry(queue: Queue) -> None:
    job = queue.enqueue(base_spec())
    assert on(queue, "cancel", job.id) == f"{job.id}: cancelled\n"
    done = jobspec("cancel", job.id, "--root", queue.paths.root, code=1)
    assert "is cancelled" in done.stderr and "hint: " in done.stderr
    found = jobspec_json("retry", "--state", "cancelled", "--root", queue.paths.root)
    assert found["jobs"] == [{"job": job.id, "state": "pending", "attempt": 2}]


def test_transitions_need_a_selection_of_jobs(queue: Queue) -> None:
    queue.enqueue(base_spec())
    jobspec("cancel", "--root", queue.paths.root, code=2)
    assert queue.jobs()[0].state is State.PENDING


def test_a_glob_moves_all_it_can_and_says_what_it_could_not(queue: Queue) -> None:
    first = queue.enqueue(base_spec())
    succeed(queue, base_spec(notes="done"), {})
    done = jobspec("cancel", "qwen*", "--root", queue.paths.root, code=1)
    assert done.stdout == f"{first.id}: cancelled\n"
    assert "is succeeded" in done.stderr


def test_prioritize(queue: Queue) -> None:
    queue.enqueue(base_spec())
    later = queue.enqueue(base_spec("a/later"))
    on(queue, "prioritize", "later", "90")
    assert queue.jobs()[0].id == later.id and queue.jobs()[0].priority == 90


def test_hold_and_release(queue: Queue) -> None:
    queue.enqueue(base_spec())
    on(queue, "hold", "quota is full")
    assert "on hold: quota is full" in on(queue, "status")
    on(queue, "release")
    assert queue.on_hold() is None


def test_workers_drain_and_quarantine(queue: Queue) -> None:
    send_heartbeat(queue, WORKER, None, slurm_job="4711_3", gpu_name="H100")
    text = on(queue, "workers")
    for part in (WORKER, "idle", "8× H100", "4711_3"):
        assert part in text
    assert on(queue, "drain", "gpu012") == f"{WORKER}\n"
    assert queue.is_draining(WORKER) and "draining" in on(queue, "workers")
    assert "no workers match" in jobspec("drain", "gpu9", "--root", queue.paths.root, code=1).stderr
    on(queue, "quarantine", "add", "gpu7", "--reason", "ECC")
    assert "ECC" in on(queue, "quarantine", "list")
    assert jobspec_json("status", "--root", queue.paths.root)["quarantine"] == ["gpu7"]
    on(queue, "quarantine", "clear", "gpu7")
    assert queue.quarantined() == {}


def test_reap_takes_back_what_a_dead_worker_held(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    assert on(queue, "reap") == f"{claim.job}\n"  # no heartbeat for a whole lease
    assert queue.job(claim.job).state is State.PENDING


def test_reap_now_of_a_named_worker(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    jobspec("reap", "--now", "--root", queue.paths.root, code=2)
    found = jobspec_json("reap", "--worker", "gpu012", "--now", "--root", queue.paths.root)
    assert found["reaped"] == [claim.job]


def test_fsck(queue: Queue) -> None:
    job = queue.enqueue(base_spec())
    job.entry.path(queue.paths).unlink()
    assert job.id in on(queue, "fsck")
    assert queue.job(job.id).state is State.PENDING
    assert not any(
        jobspec_json("fsck", "--root", queue.paths.root)[k] for k in ("rebuilt", "swept")
    )


def test_wait_tells_how_jobs_ended(queue: Queue, tmp_path: Path) -> None:
    first = succeed(queue, base_spec(), {})
    told = tmp_path / "told"
    notify = f'echo "$JOBSPEC_JOB $JOBSPEC_STATE" >> {told}'
    assert on(queue, "wait", "--notify", notify) == f"{first.id}: succeeded\n"
    assert told.read_text() == f"{first.id} succeeded\n"
    fail(queue, base_spec(notes="bad"), "no")
    on(queue, "wait", code=1)
    queue.enqueue(base_spec(notes="waits"))
    found = jobspec_json("wait", "--timeout", "0", "--root", queue.paths.root, code=1)
    assert len(found["jobs"]) == 2 and len(found["waiting"]) == 1


def test_wait_waits(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    other = succeed(queue, base_spec(notes="done"), {})
    with Talking("wait", "--interval", "0.05", "--root", queue.paths.root) as waiter:
        assert waiter.line() == f"{other.id}: succeeded\n"
        assert waiter.runs
        claim.end(ended(Reason.SUCCEEDED))
        claim.finish("succeeded")
        assert waiter.end()[::2] == (f"{claim.job}: succeeded\n", 0)


def test_wait_and_prioritize_choose_by_state_too(queue: Queue) -> None:
    fail(queue, base_spec(notes="failed"), "no")
    done = succeed(queue, base_spec(notes="done"), {})
    queue.enqueue(base_spec(notes="waits"))
    assert on(queue, "wait", "--state", "succeeded", "--timeout", "20") == f"{done.id}: succeeded\n"
    on(queue, "prioritize", "--state", "pending", "77")
    assert queue.jobs("pending")[0].priority == 77
    jobspec("prioritize", "77", "--root", queue.paths.root, code=2)


def test_logs_in_json_do_not_follow(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    done = jobspec("logs", claim.job, "-f", "--json", "--root", queue.paths.root, code=2)
    assert "--json" in done.stderr


def completions(words: str, shell: str = "bash", **env: str) -> list[str]:
    """What a shell would be offered for the last of these words."""
    given = {"_JOBSPEC_COMPLETE": f"{shell}_complete", "COMP_WORDS": words}
    position = str(len(words.split(" ")) - 1)
    if shell == "fish":
        position = words.split(" ")[-1]
    done = jobspec(code=None, COMP_CWORD=position, **given, **env)
    lines = [line for line in done.stdout.splitlines() if line]
    if shell == "zsh":  # kind, value, help
        return lines[1::3]
    return [line.partition(",")[2].split("\t")[0] for line in lines]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_commands_ids_and_states(queue: Queue, shell: str) -> None:
    job = queue.enqueue(base_spec())
    queue.enqueue(base_spec("a/other"))
    send_heartbeat(queue, WORKER, None)
    root = {"JOBSPEC_ROOT": str(queue.paths.root)}
    assert {"retry", "release", "results", "reap"} <= set(completions("jobspec re", shell))
    assert completions("jobspec show qw", shell, **root) == [job.id]
    assert completions(f"jobspec --root {queue.paths.root} cancel qw", shell) == [job.id]
    assert completions("jobspec status --state f", shell, **root) == ["failed"]
    assert completions("jobspec drain gpu", shell, **root) == [WORKER]
    assert completions("jobspec show q", shell, JOBSPEC_ROOT="/nowhere") == []


def test_bash_itself_completes(queue: Queue, tmp_path: Path) -> None:
    job = queue.enqueue(base_spec())
    command = tmp_path / "jobspec"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m jobspec.cli "$@"\n')
    command.chmod(0o755)
    script = (
        'eval "$(jobspec --completion bash)"; COMP_WORDS=(jobspec show qw); COMP_CWORD=2;'
        ' _jobspec_completion jobspec; echo "${COMPREPLY[@]}"'
    )
    env = environment(JOBSPEC_ROOT=str(queue.paths.root), PATH=f"{tmp_path}:{os.environ['PATH']}")
    done = subprocess.run(
        ["bash", "-c", script], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [job.id], done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    script = jobspec("--completion", shell).stdout
    assert "_JOBSPEC_COMPLETE" in script
    if shell == "fish":  # or it cuts help at its first comma
        assert 'string split --max 1 "," $completion' in script


def test_a_bug_keeps_its_traceback(queue: Queue) -> None:
    job = queue.enqueue(base_spec())
    (job.paths.dir / "attempts").write_text("not a directory")
    (queue.paths.workers / f"{WORKER}.json").mkdir()  # no JobspecError: nobody expects it
    command = [sys.executable, "-m", "jobspec.cli", "workers", "--root", str(queue.paths.root)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_output_into_a_closed_pipe_is_no_error(queue: Queue) -> None:
    for n in range(3):
        queue.enqueue(base_spec(notes=str(n)))
    command = f"{sys.executable} -m jobspec.cli status --root {queue.paths.root} | head -1"
    done = subprocess.run(
        command, shell=True, env=environment(), capture_output=True, text=True, check=False
    )
    assert "3 jobs" in done.stdout and "Traceback" not in done.stderr


def test_json_everywhere(queue: Queue) -> None:
    busy_queue(queue)
    job = next(job.id for job in queue.jobs() if job.state is State.PENDING)
    root = os.fspath(queue.paths.root)
    for args in (
        ("status",), ("show", job), ("logs", job), ("results",), ("workers",), ("hold",),
        ("release",), ("fsck",), ("quarantine", "list"), ("prioritize", job, "3"),
        ("cancel", job), ("retry", job), ("drain", WORKER), ("wait", "olmo*", "--timeout", "0"),
    ):  # fmt: skip
        done = jobspec(*args, "--json", "--root", root, code=None)
        assert json.loads(done.stdout)["schema"] == 1, args
