"""Small task files of lm-eval's with local data: a benchmark directory without the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worker.lm_eval_tasks import sandbox

needs_sandbox = pytest.mark.skipif(
    sandbox.missing() is not None, reason=f"needs bubblewrap: {sandbox.missing()}"
)
GENERATES = {
    "output_type": "generate_until",
    "doc_to_text": "{{q}}",
    "doc_to_target": "{{a}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
CHOOSES = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_target": "{{a}}",
    "doc_to_choice": ["yes", "no"],
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
ROLLS = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{q}}",
    "metric_list": [
        {
            "metric": "word_perplexity",
            "aggregation": "weighted_perplexity",
            "higher_is_better": False,
        }
    ],
}


def rows(count: int) -> list[dict[str, Any]]:
    """Questions with the answers 0, 1, 0, 1, …"""
    return [{"q": f"Is {i} an odd number?", "a": i % 2} for i in range(count)]


def task_file(directory: Path, name: str, *, count: int = 4, text: str = "", **fields: Any) -> None:
    """Write a task with `count` questions; `text` is further YAML, for `!function`."""
    directory.mkdir(parents=True, exist_ok=True)
    data = directory / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(count)))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "metadata": {"version": 1.0},
        **fields,
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in task.items()]
    (directory / f"{name}.yaml").write_text("\n".join(lines) + f"\n{text}")


def group_file(directory: Path, name: str, tasks: list[str], *, scored: bool) -> None:
    """Write a group of tasks, with an average over them or without."""
    group: dict[str, Any] = {"group": name, "task": tasks}
    if scored:
        group["aggregate_metric_list"] = [{"metric": "acc", "weight_by_size": True}]
    (directory / f"_{name}.yaml").write_text(json.dumps(group))


def code_task(directory: Path, name: str) -> None:
    """Write a task that runs what is generated, as lm-eval's HumanEval does."""
    (directory / "run_code.py").write_text(
        "import evaluate\n"
        "ours = evaluate.load('code_eval')\n"
        "ours.compute(references=['assert True'], predictions=[['pass']], k=[1])\n"
        "def pass_at_1(references, predictions):\n"
        "    return ours.compute(references=references, predictions=predictions, k=[1])[0]\n"
        "def programs(resps, docs):\n"
        "    return [[f'def is_odd(n): return n % 2 == {d[\"a\"]}' for _ in r]\n"
        "            for r, d in zip(resps, docs)]\n"
    )
    fields = {**GENERATES, "doc_to_target": "assert is_odd(1)", "unsafe_code": True}
    fields.pop("metric_list")
    text = (
        "metric_list:\n"
        "  - {metric: !function run_code.pass_at_1, aggregation: mean, higher_is_better: true}\n"
        "filter_list:\n"
        "  - {name: code, filter: [{function: custom, filter_fn: !function run_code.programs}]}\n"
    )
    task_file(directory, name, text=text, **fields)
