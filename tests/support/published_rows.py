"""A made-up row of each downloaded benchmark in its published columns, with two responses to it."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from typing import Any


def _hidden(cases: list[dict[str, str]]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def _block(code: str) -> str:
    return f"Here it is:\n```python\n{code}\n```\n"


# Name → row, a right response, a wrong one.
FORMATS: dict[str, tuple[dict[str, Any], str, str]] = {
    "gsm8k_chat": (
        {"question": "Tom has 3 apples and 4 pears. How many?", "answer": "3+4=<<3+4=7>>7\n#### 7"},
        "He has $3 + 4 = 7$ fruits: \\boxed{7.00}",
        "\\boxed{8}",
    ),
    "mmlu_pro_chat": (
        {
            "question_id": 70, "question": "Which is even?", "options": ["1", "2", "3"],
            "answer": "B", "answer_index": 1, "cot_content": "", "category": "math", "src": "x",
        },
        "Answer: B",
        "Answer: C",
    ),
    "humaneval_plus_chat": (
        {
            "task_id": "HumanEval/0",
            "prompt": "from typing import List\n\ndef total(x: List[int]) -> int:\n    '''Add.'''",
            "canonical_solution": "\n    return sum(x)\n",
            "entry_point": "total",
            "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n",
        },
        _block("def total(x: List[int]) -> int:\n    return sum(x)"),
        _block("def total(x):\n    return 0"),
    ),
    "mbpp_plus_chat": (
        {
            "task_id": 2, "code": "def add(a, b):\n    return a + b", "source_file": "x",
            "prompt": "Write a function to add two numbers.", "test_imports": [],
            "test_list": ["assert add(1, 2) == 3"], "test": "assert add(10, 2) == 12",
        },
        _block("def add(a, b):\n    return a + b"),
        _block("def add(a, b):\n    return 3"),
    ),
    "livecodebench": (
        {
            "question_title": "x", "question_content": "Join the words.", "platform": "leetcode",
            "question_id": "3000", "contest_date": "2025-02-01", "difficulty": "easy",
            "starter_code": "class Solution:\n    def join(self, a: str) -> dict: {}",
            "public_test_cases": json.dumps(
                [{"input": '"a b"', "output": '{"a b": 1}', "testtype": "functional"}]
            ),
            "private_test_cases": _hidden(
                [{"input": '"c"', "output": '{"c": 1}', "testtype": "functional"}]
            ),
            "metadata": '{"func_name": "join"}',
        },
        _block("class Solution:\n    def join(self, a):\n        return Counter([a])"),
        _block("class Solution:\n    def join(self, a):\n        return {'a b': 1}"),
    ),
    "ifeval_chat": (
        {
            "key": 1000,
            "prompt": "Name some fruits in at least two sentences and without any commas.",
            "instruction_id_list": [
                "punctuation:no_comma", "length_constraints:number_sentences",
            ],
            "kwargs": [
                {"num_sentences": None, "relation": None},
                {"num_sentences": 2, "relation": "at least"},
            ],
        },
        "Apples are fruits. Pears are fruits too.",
        "Apples and pears are fruits.",
    ),
}  # fmt: skip
