"""The way through with real input: a trained model, real traces, MATH-500 and AIME."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import msgspec
import pytest

from jobspec.records.attempt import Result
from jobspec.records.base import State
from jobspec.spec.schema import (
    BenchmarkOverrides,
    DataSpec,
    EvalSpec,
    TrainSpec,
)
from tests.support.paths import DATA
from tests.support.queues import queue_at
from tests.support.specs import train_spec
from tests.support.workers import drain, rows
from worker.demo.tiny_model import TEMPLATE

POSITIONS = 4096

pytestmark = [
    pytest.mark.deepspeed,
    pytest.mark.data,
    pytest.mark.skipif(
        not DATA.is_dir(), reason=f"no reference data at {DATA} (JOBSPEC_TEST_DATA)"
    ),
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The trained 260K model with room for a row, and a template."""
    path = tmp_path / "model"
    shutil.copytree(DATA / "tiny_stories260k_hf", path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": POSITIONS}))
    (path / "chat_template.jinja").write_text(
        TEMPLATE.replace("{{ eos_token }}", "</s>").replace("<|im_end|>", "</s>")
    )
    return path


@pytest.fixture
def short_rows(tmp_path: Path) -> Path:
    """The rows that fit the model's few tokens a word."""
    path = tmp_path / "rows.jsonl"
    lines = (DATA / "sft_reasoning.jsonl").read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(sorted(lines, key=len)[:40]))
    return path


def test_from_real_rows_to_real_scores(model: Path, short_rows: Path, tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    spec = train_spec(
        model,
        name="real",
        model__dtype="float32",
        data=DataSpec(
            path=str(short_rows),
            sha256=hashlib.sha256(short_rows.read_bytes()).hexdigest(),
            eval_split_ratio=0.2,
            max_dropped_frac=0.5,
        ),
        train=TrainSpec(
            learning_rate=1e-3, num_train_epochs=1.0, max_length=POSITIONS, global_batch_size=4
        ),
        eval=EvalSpec(
            benchmark_dir=str(DATA),
            avg_k=4,
            max_gen_toks=64,
            limit=4,
            overrides={"minerva_math500": BenchmarkOverrides(limit=8, avg_k=4)},
        ),
    )
    job = queue.enqueue(spec)
    drain(queue)

    job = queue.job(job.id)
    assert job.state is State.SUCCEEDED, job.reason
    result = msgspec.json.decode(job.paths.result.read_bytes(), type=Result)
    train = msgspec.to_builtins(result.train)
    assert train["eval_loss"] < train["eval_loss_first"]
    assert train["engine"]["class"] == "DeepSpeedEngine"
    assert train["engine"]["world_size"] == 2
    assert any("eval_loss" in row for row in rows(job.paths.attempt(1).dir))
    common = ["stderr", "sampling_stderr", "truncated_frac", "unclosed_think_frac"]
    common += ["no_answer_frac", "mean_response_tokens"]
    aime = [*common, "avg_at_4", "pass_at_1", "pass_at_2", "pass_at_4", "maj_at_4"]
    wanted = {f"bench/{name}/{key}" for name in ("aime24", "aime25") for key in aime}
    wanted |= {f"bench/minerva_math500/{key}" for key in [*common, "math_verify"]}
    assert wanted <= result.metrics.keys()
    for name in ("minerva_math500", "aime24", "aime25"):
        assert msgspec.to_builtins(result.protocol[name]).keys() >= {
            "protocol",
            "shots",
            "k",
            "temperature",
            "top_p",
        }
