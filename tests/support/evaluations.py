"""What the tests of evaluation share: tiny models, benchmark files, jobs, and the phase itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.spec import identity, rules
from jobspec.spec.schema import DataSpec, EvalSpec, JobSpec, ModelSpec
from jobspec.storage.layout import AttemptPaths, JobPaths

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("JOBSPEC_TEST_DATA", ROOT.parent / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "math500.jsonl").is_file(),
    reason=f"the reference data is not at {DATA}; $JOBSPEC_TEST_DATA names its directory",
)
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def stories_model(directory: Path, *, template: str | None = CHAT, context: int = 4096) -> Path:
    """A copy of the trained 260K-parameter model, with room for the prompts and a chat template."""
    shutil.copytree(DATA / "tiny_stories260k_hf", directory, copy_function=shutil.copyfile)
    directory.chmod(0o755)
    config = json.loads((directory / "config.json").read_text())
    config["max_position_embeddings"] = context
    (directory / "config.json").write_text(json.dumps(config))
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return directory


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
    spec = JobSpec(name="scored", model=ModelSpec(name=str(model)), train=None, eval=evaluation)
    rules.check(spec)
    data = identity.canonical(spec)
    job = JobPaths(root / "jobs" / identity.job_id(spec.name, data))
    attempt = job.attempt(number)
    attempt.dir.mkdir(parents=True)
    job.spec.write_bytes(data)
    return attempt


def make_trained_attempt(root: Path, evaluation: EvalSpec, model: Path) -> AttemptPaths:
    """An attempt whose train phase is finished, `model` being what it made."""
    spec = JobSpec(
        name="trained",
        model=ModelSpec(name="nowhere/base"),
        data=DataSpec(path="rows.jsonl"),
        eval=evaluation,
    )
    data = identity.canonical(spec)
    job = JobPaths(root / "jobs" / identity.job_id(spec.name, data))
    attempt = job.attempt(1)
    attempt.dir.mkdir(parents=True)
    job.spec.write_bytes(data)
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
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
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
