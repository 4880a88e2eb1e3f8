"""Fetching with the real clients from a hub on this machine, then scoring offline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobspec.spec.schema import EvalSpec
from tests.support.commands import jobspec
from tests.support.evaluations import environment, make_attempt, run_phase
from tests.support.hub import Repositories, hub
from tests.support.models import stories_model
from tests.support.paths import DATA, needs_data
from tests.support.specs import job_spec, write_spec

pytestmark = needs_data


@pytest.fixture
def repositories(tmp_path: Path) -> Repositories:
    """A model, and the data sets our benchmarks come from, with the hub's own field names."""
    model = stories_model(tmp_path / "served")
    return {
        ("models", "org/tiny"): {path.name: path.read_bytes() for path in model.iterdir()},
        ("datasets", "Maxwell-Jia/AIME_2024"): {
            "aime_2024_problems.jsonl": lines(
                {
                    "ID": r["id"],
                    "Problem": r["problem"],
                    "Solution": "so",
                    "Answer": int(r["answer"]),
                }
                for r in rows("aime24")
            )
        },
        ("datasets", "math-ai/aime25"): {"test.jsonl": lines(rows("aime25"))},
        ("datasets", "HuggingFaceH4/MATH-500"): {"test.jsonl": lines(rows("math500"))},
    }


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]


def lines(made: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in made)


def fetch(root: Path, spec: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker.fetch", str(root), str(spec)],
        env=environment(HF_ENDPOINT=endpoint, HF_HUB_DISABLE_XET="1", HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_was_fetched_is_scored_without_a_network(
    repositories: Repositories, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    settings = EvalSpec(avg_k=2, limit=2, max_gen_toks=8)
    spec = write_spec(tmp_path / "spec.json", job_spec("org/tiny", eval=settings))
    with hub(repositories) as endpoint:
        done = fetch(root, spec, endpoint)
    assert done.returncode == 0, done.stderr
    assert "aime24: 30 questions" in done.stdout
    assert "minerva_math500: 500 questions" in done.stdout
    for name in ("aime24", "aime25", "math500"):
        kept = [
            json.loads(line)
            for line in (root / "cache" / "benchmarks" / f"{name}.jsonl").read_text().splitlines()
        ]
        wanted = [(r.get("id") or r["unique_id"], r["problem"], r["answer"]) for r in rows(name)]
        assert [(r["id"], r["problem"], r["answer"]) for r in kept] == wanted
    # The hub is gone; what a worker needs is in the cache.
    attempt = make_attempt(root, Path("org/tiny"), settings)
    scored = run_phase(attempt, HF_HOME=str(root / "cache"))
    assert scored.returncode == 0, scored.stderr
    metrics = json.loads(attempt.done("eval").read_text())["metrics"]
    assert "bench/minerva_math500/math_verify" in metrics
    # A second fetch finds all of it and asks for the model alone.
    with hub({key: files for key, files in repositories.items() if key[0] == "models"}) as endpoint:
        again = fetch(root, spec, endpoint)
    assert again.returncode == 0, again.stderr


def test_a_name_that_the_hub_does_not_have_is_refused(
    repositories: Repositories, tmp_path: Path
) -> None:
    spec = write_spec(tmp_path / "spec.json", job_spec("org/none"))
    with hub(repositories) as endpoint:
        done = fetch(tmp_path / "root", spec, endpoint)
    assert done.returncode == 3
    assert "`org/none` can't be downloaded" in done.stderr


def test_a_benchmark_the_hub_no_longer_has_is_refused(
    repositories: Repositories, tmp_path: Path
) -> None:
    model = str(stories_model(tmp_path / "model"))
    spec = write_spec(tmp_path / "spec.json", job_spec(model, eval__benchmarks=["aime24"]))
    with hub({}) as endpoint:
        done = fetch(tmp_path / "root", spec, endpoint)
    assert done.returncode == 3
    assert "`aime24` is in no benchmark directory" in done.stderr
    assert not list((tmp_path / "root").rglob("aime24.jsonl"))


def test_run_downloads_a_model_and_a_benchmark_and_scores_it(
    repositories: Repositories, tmp_path: Path
) -> None:
    settings = EvalSpec(benchmarks=("aime24",), avg_k=2, limit=2, max_gen_toks=8)
    spec = write_spec(tmp_path / "spec.json", job_spec("org/tiny", eval=settings))
    with hub(repositories) as endpoint:
        done = jobspec(
            *("run", spec, "--root", tmp_path / "root"),
            HF_ENDPOINT=endpoint,
            HF_HUB_DISABLE_XET="1",
            HF_HUB_OFFLINE="1",
            PYTHONWARNINGS="default",
        )
    assert "aime24: 30 questions" in done.stdout and "AIME24 AVG@2" in done.stdout
