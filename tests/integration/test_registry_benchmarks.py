"""Benchmarks of the registry from the hub to the score: fetched, asked, graded, graded again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from jobspec.spec.schema import EvalSpec
from tests.integration.test_fetch import fetch, lines
from tests.support.evaluations import (
    command,
    environment,
    make_attempt,
    read_lines,
    run_phase,
)
from tests.support.hub import hub
from tests.support.lm_eval_tasks import needs_sandbox
from tests.support.models import stories_model
from tests.support.nltk_files import make_punkt
from tests.support.paths import needs_data
from tests.support.published_rows import FORMATS
from tests.support.specs import job_spec, write_spec

pytestmark = [needs_data, needs_sandbox]
DATASETS = {
    "gsm8k_chat": ("openai/gsm8k", "main/test.jsonl"),
    "mmlu_pro_chat": ("TIGER-Lab/MMLU-Pro", "test.jsonl"),
    "humaneval_plus_chat": ("evalplus/humanevalplus", "test.jsonl"),
    "mbpp_plus_chat": ("evalplus/mbppplus", "test.jsonl"),
    "ifeval_chat": ("google/IFEval", "ifeval_input_data.jsonl"),
    "livecodebench": ("livecodebench/code_generation_lite", "test6.jsonl"),
}


CONFIG = b"""---
configs:
- config_name: main
  data_files: [{split: test, path: main/test.jsonl}]
---
"""


def test_what_is_published_is_fetched_asked_and_graded(tmp_path: Path) -> None:
    model, root = stories_model(tmp_path / "model"), tmp_path / "root"
    settings = EvalSpec(benchmarks=tuple(FORMATS), avg_k=1, max_gen_toks=8)
    spec = write_spec(tmp_path / "spec.json", job_spec(model, eval=settings))
    served = {
        ("datasets", DATASETS[name][0]): {DATASETS[name][1]: lines([FORMATS[name][0]])}
        for name in FORMATS
    }
    served["datasets", "openai/gsm8k"]["README.md"] = CONFIG
    make_punkt(root / "cache" / "nltk_data")
    with hub(served) as endpoint:
        done = fetch(root, spec, endpoint)
    assert done.returncode == 0, done.stderr
    assert "punkt_tab: NLTK's data in " in done.stdout
    assert done.stdout.count(": 1 questions in ") == len(FORMATS)
    attempt = make_attempt(root, model, settings)
    done = run_phase(attempt)
    assert done.returncode == 0, done.stderr
    for name, (_, right, wrong) in FORMATS.items():
        (file,) = (attempt.eval / name).glob("generations-*.jsonl")
        rows = read_lines(file)
        for row in rows:
            row |= {"text": right if row["sample"] == 0 else wrong, "finish": "stop"}
            row |= {"thinking": None}
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        command(attempt, "rescore"), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(attempt.done("eval").read_text())
    scores = [report["metrics"][name] for name in report["main"]]
    assert scores == [1.0, 1.0, 0.1, 0.1, 0.1, 1.0]
