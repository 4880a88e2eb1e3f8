"""Helpers for tests of evaluation: benchmark files, attempts, and running the phase."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from jobspec.spec import rules
from jobspec.spec.schema import EvalSpec
from jobspec.storage.layout import AttemptPaths
from tests.support.paths import REPOSITORY
from tests.support.queues import attempt_of
from tests.support.specs import job_spec, train_spec


def aime_file(directory: Path, rows: list[dict[str, Any]], name: str = "aime_test") -> Path:
    """Write a benchmark file like AIME's; returns its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / f"{name}.jsonl").write_text(lines)
    return directory


def questions(count: int) -> list[dict[str, Any]]:
    """Questions like those of AIME, with the answers 1, 2, 3, …"""
    return [
        {"id": f"q{i}", "problem": f"What is the {i}th number?" + " Say." * i, "answer": i + 1}
        for i in range(count)
    ]


def make_attempt(root: Path, model: Path, evaluation: EvalSpec, number: int = 1) -> AttemptPaths:
    """An attempt's directory of a job that scores `model` as it is."""
    spec = job_spec(model, name="scored", eval=evaluation)
    rules.check(spec)
    return attempt_of(root, spec, number)


def make_trained_attempt(root: Path, evaluation: EvalSpec, model: Path) -> AttemptPaths:
    """An attempt whose train phase is finished, `model` being what it made."""
    spec = train_spec("nowhere/base", "rows.jsonl", name="trained", train={}, eval=evaluation)
    attempt = attempt_of(root, spec)
    shutil.copytree(model, attempt.final_model)
    attempt.done("train").write_text(json.dumps({"epochs": 3.0}))
    return attempt


def command(attempt: AttemptPaths, module: str = "evaluate") -> list[str]:
    """The command line of a module of worker.evaluation."""
    return [
        sys.executable,
        "-W",
        "error::ResourceWarning",
        "-m",
        f"worker.evaluation.{module}",
        str(attempt.dir),
    ]


def environment(**extra: str) -> dict[str, str]:
    """An offline process's environment, on one thread: other tests run beside this one."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JOBSPEC_")}
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return kept | offline | extra


def run_phase(attempt: AttemptPaths, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the eval phase to its end."""
    return subprocess.run(
        command(attempt), env=environment(**extra), capture_output=True, text=True, check=False
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def generations(directory: Path) -> list[dict[str, Any]]:
    """Every generation below a benchmark's directory, in order of chunk."""
    files = sorted(directory.glob("generations-*.jsonl"))
    return [row for file in files for row in read_lines(file)]
