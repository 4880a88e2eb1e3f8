"""The files of an evaluation that earlier versions wrote."""

from __future__ import annotations

import json
from pathlib import Path

from jobspec.records.evaluation import read_plan
from jobspec.storage.layout import EvaluationPaths


def test_a_plan_that_names_the_form_of_answers_still_loads(tmp_path: Path) -> None:
    """Version 0.1 wrote `form`, which now follows from the benchmark's name."""
    plan = {"key": "x", "benchmark": "aime24", "form": "aime", "k": 32, "chunks": 4}
    EvaluationPaths(tmp_path).plan.write_text(json.dumps(plan))
    assert read_plan(tmp_path).benchmark == "aime24"
    assert read_plan(tmp_path).k == 32
