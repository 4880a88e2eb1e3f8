"""`jobspec samples --inspect`: the files are read by inspect_ai's own reader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobspec.queue.queue import Queue
from tests.support.commands import environment, jobspec, jobspec_json
from tests.support.scores import scored_job

# A directory of packages, apart from those that the project uses.
INSPECT = os.environ.get("JOBSPEC_TEST_INSPECT")
BENCHMARKS = {"aime24": {"q1": [True, False], "q2": [True, True]}, "own_x": {"q1": [False, False]}}
READ = """
import json, sys
from inspect_ai.log import list_eval_logs, read_eval_log
logs = [read_eval_log(each) for each in list_eval_logs(sys.argv[1])]
print(json.dumps([log.model_dump(mode="json") for log in logs]))
"""


@pytest.mark.skipif(INSPECT is None, reason="needs inspect-ai in $JOBSPEC_TEST_INSPECT")
def test_inspect_ai_reads_what_is_written(queue: Queue, tmp_path: Path) -> None:
    scored_job(queue, "one", BENCHMARKS)
    logs = tmp_path / "logs"
    written = jobspec_json("samples", "one", "--inspect", logs, "--root", queue.paths.root)["logs"]
    assert sorted(map(str, logs.iterdir())) == sorted(written)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(logs)],
        env=environment(PYTHONPATH=str(INSPECT)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = {log["eval"]["task"]: log for log in json.loads(done.stdout)}
    assert set(found) == set(BENCHMARKS)
    aime = found["aime24"]
    assert aime["status"] == "success"
    samples = {(each["id"], each["epoch"]): each for each in aime["samples"]}
    assert set(samples) == {("q1", 1), ("q1", 2), ("q2", 1), ("q2", 2)}
    wrong = samples["q1", 2]
    assert (wrong["input"], wrong["target"]) == ("user: What is q1?\n", "7")
    assert "\\boxed{8}" in wrong["output"]["choices"][0]["message"]["content"]
    assert wrong["scores"]["jobspec"]["value"] == "I"
    assert wrong["scores"]["jobspec"]["answer"] == "8"
    assert wrong["scores"]["jobspec"]["metadata"]["rule"] == "box"
    assert samples["q2", 1]["scores"]["jobspec"]["value"] == "C"
    (score,) = aime["results"]["scores"]
    assert score["metrics"]["accuracy"]["value"] == 0.75


def test_one_benchmark_is_written_with_the_name_that_inspect_lists(
    queue: Queue, tmp_path: Path
) -> None:
    scored_job(queue, "one", BENCHMARKS)
    options = ("--inspect", tmp_path, "--benchmark", "AIME24", "--root", queue.paths.root)
    path = Path(jobspec("samples", "one", *options).stdout.strip())
    date, task, _ = path.stem.split("_")
    assert (path.parent, task, path.suffix) == (tmp_path, "aime24", ".json")
    assert len(date) == len("2026-01-02T03-04-05+00-00")
    assert json.loads(path.read_text())["eval"]["metadata"]["protocol"]["temperature"] == 0.6
    jobspec("samples", "one", *options)  # writes the same file again
    assert len(list(tmp_path.glob("*.json"))) == 1
