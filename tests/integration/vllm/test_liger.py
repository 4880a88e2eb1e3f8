"""The real Liger on a CPU, by Triton's interpreter: here, because vLLM's environment has Triton."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import REPOSITORY

pytestmark = pytest.mark.vllm
# What Liger 0.8.5 leaves; a later version may leave less.
LEFT = ["model.layers.*.self_attn.k_norm", "model.layers.*.self_attn.q_norm"]


def run(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.liger", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"TRITON_INTERPRET": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_no_family_keeps_a_norm_that_liger_could_compute() -> None:
    rows = {row["family"]: row for row in map(json.loads, run("--norms"))}
    assert len(rows) > 30
    assert rows["olmo3"]["by_liger"] == rows["olmo2"]["by_liger"] == LEFT
    assert not {family: row["by_us"] for family, row in rows.items() if row["by_us"]}
