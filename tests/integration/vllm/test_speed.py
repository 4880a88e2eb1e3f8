"""The benchmark of our adapter against vLLM's own front door, at toy size."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from benchmarks.gpu_eval import gpu_hours
from tests.support.paths import REPOSITORY

pytestmark = pytest.mark.vllm


def test_the_comparison_prints_both_speeds_and_what_scoring_costs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_eval", "--toy", "--no-prefix-caching"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *_, raw, ours, ratio, cost = done.stdout.splitlines()
    rates = [float(line.split()[1]) for line in (raw, ours)]
    assert raw.startswith("raw") and ours.startswith("ours") and min(rates) > 0
    found = re.fullmatch(r"ours / raw: (\d+\.\d{3}) \(at least 0.95 wanted\)", ratio)
    assert found is not None
    assert float(found[1]) == pytest.approx(rates[1] / rates[0], rel=1 / min(rates), abs=0.001)
    hours = gpu_hours(rates[1], aime_tokens=16_000, math_tokens=5_000)
    printed = float(cost.split(": ")[1].split()[0].replace(",", ""))
    assert printed == pytest.approx(hours, rel=0.05) and "CPU-hours" in cost


def test_hours_follow_from_samples_lengths_and_speed() -> None:
    assert gpu_hours(3600.0, aime_tokens=1, math_tokens=0) == 1920 / 3600**2
    assert gpu_hours(1000.0, aime_tokens=10_000, math_tokens=4_000, gpus=2) == pytest.approx(
        11.78, abs=0.01
    )
