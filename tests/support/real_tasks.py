"""lm-eval's own task files on a few rows of our own: what the hub has can't be fetched in tests."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

_CHOICES = {"text": ["red", "blue", "green", "old"], "label": ["A", "B", "C", "D"]}
_TESTS = ["assert f(1) == 2", "assert f(2) == 3", "assert f(3) == 4"]
# For each task: its file below lm-eval's `tasks`, and a row as its dataset has it.
REAL_TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "gsm8k": (
        "gsm8k/gsm8k.yaml",
        {"question": "Tom has 2 dogs and gets 3. How many?", "answer": "2 + 3 = 5\n#### 5"},
    ),
    "triviaqa": (
        "triviaqa/default.yaml",
        {"question": "Who wrote Faust", "answer": {"aliases": ["Goethe", "J. W. Goethe"]}},
    ),
    "humaneval": (
        "humaneval/humaneval.yaml",
        {
            "prompt": "def f(x):\n",
            "test": "def check(g):\n    assert g(1) == 2\n",
            "entry_point": "f",
        },
    ),
    "mbpp": ("mbpp/mbpp.yaml", {"text": "Write f(x) = x + 1.", "code": "", "test_list": _TESTS}),
    "arc_easy": (
        "arc/arc_easy.yaml",
        {"question": "What colour is the sky?", "choices": _CHOICES, "answerKey": "B"},
    ),
    "hellaswag": (
        "hellaswag/hellaswag.yaml",
        {
            "ctx_a": "A man sits.",
            "ctx_b": "he",
            "activity_label": "Rest",
            "endings": ["sleeps.", "flies.", "melts.", "is two."],
            "label": "0",
        },
    ),
    "piqa": (
        "piqa/piqa.yaml",
        {"goal": "Open a door", "sol1": "Push it", "sol2": "Eat it", "label": 0},
    ),
    "winogrande": (
        "winogrande/default.yaml",
        {
            "sentence": "The cat saw the dog and _ ran.",
            "option1": "the cat",
            "option2": "the dog",
            "answer": "1",
        },
    ),
    "boolq": (
        "super_glue/boolq/default.yaml",
        {"passage": "Ice is cold.", "question": "is ice cold", "label": 1},
    ),
    "openbookqa": (
        "openbookqa/openbookqa.yaml",
        {"question_stem": "Snow is", "choices": _CHOICES, "answerKey": "D"},
    ),
    "sciq": (
        "sciq/sciq.yaml",
        {
            "question": "What is ice?",
            "support": "Ice is frozen water.",
            **{f"distractor{i}": f"thing {i}" for i in (1, 2, 3)},
            "correct_answer": "water",
        },
    ),
    "truthfulqa_mc1": (
        "truthfulqa/truthfulqa_mc1.yaml",
        {"question": "Is up down?", "mc1_targets": {"choices": ["No", "Yes"], "labels": [1, 0]}},
    ),
    "lambada_openai": (
        "lambada/lambada_openai.yaml",
        {"text": "The dog chased the cat up the tall tree"},
    ),
    "wikitext": ("wikitext/wikitext.yaml", {"page": " = Ice = \n Ice is water that is frozen . "}),
}


def real_tasks(directory: Path, rows: int = 7) -> tuple[str, ...]:
    """Write a task file for each, which includes lm-eval's and has `rows` rows; returns names."""
    found = importlib.util.find_spec("lm_eval")
    assert found is not None and found.submodule_search_locations
    tasks = Path(found.submodule_search_locations[0]) / "tasks"
    directory.mkdir(parents=True, exist_ok=True)
    for name, (file, row) in REAL_TASKS.items():
        data = directory / f"{name}.jsonl"
        data.write_text((json.dumps(row) + "\n") * rows)
        splits = dict.fromkeys(("train", "validation", "test"), str(data))
        fields = {
            "include": str(tasks / file),
            "task": name,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": splits},
        }
        lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items()]
        (directory / f"{name}.yaml").write_text("\n".join(lines) + "\n")
    return tuple(REAL_TASKS)
