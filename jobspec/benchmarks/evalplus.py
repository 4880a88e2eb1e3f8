"""HumanEval+ and MBPP+: Python functions with the many tests of EvalPlus, run in a sandbox.

Source: Liu et al. 2023, arXiv:2305.01210.
"""

from __future__ import annotations

from typing import cast

from jobspec.benchmarks.benchmark import Benchmark, HubDataset, Question, QuestionRow
from jobspec.benchmarks.own import CODE, CODE_PROMPT
from jobspec.records.evaluation import Reading

# The tests import numpy, whose threads would reserve more memory than the sandbox has.
_ONE_THREAD = "import os\nos.environ['OPENBLAS_NUM_THREADS'] = '1'\n"


def _humaneval(row: QuestionRow) -> Question:
    start = row.text("prompt")
    return Question(
        id=row.text("task_id"),
        problem=f"Complete this function.\n\n```python\n{start.rstrip()}\n```",
        answer=start + row.text("canonical_solution"),
        prompt=CODE_PROMPT,
        reading=Reading(
            reader=CODE,
            setup=f"{_ONE_THREAD}{start.rstrip()}\n    pass\n",  # a response may leave out imports
            tests=f"{row.text('test')}\ncheck({row.text('entry_point')})\n",
        ),
    )


def _mbpp(row: QuestionRow) -> Question:
    examples = row.value("test_list")
    listed = cast("list[object]", examples) if isinstance(examples, list) else []
    example = str(listed[0]) if listed else ""
    shown = f"\n\nYour code must pass this test:\n\n```python\n{example}\n```" if example else ""
    return Question(
        id=row.text("task_id"),
        problem=row.text("prompt").strip() + shown,
        answer=row.text("code"),
        prompt=CODE_PROMPT,
        reading=Reading(reader=CODE, setup=_ONE_THREAD, tests=row.text("test")),
    )


_HUMANEVAL = ("task_id", "prompt", "canonical_solution", "entry_point", "test")
_MBPP = ("task_id", "prompt", "code", "test_list", "test")
BENCHMARKS = (
    Benchmark(
        name="humaneval_plus_chat",
        title="HumanEval+",
        aliases=("humaneval-plus-chat", "humaneval+", "humaneval-plus"),
        files=("humaneval_plus.jsonl",),
        fields=_HUMANEVAL,
        url="https://huggingface.co/datasets/evalplus/humanevalplus",
        licence="Apache-2.0",
        dataset=HubDataset(
            path="evalplus/humanevalplus", split="test", columns={name: name for name in _HUMANEVAL}
        ),
        question_count=164,
        grader="reader",
        runs_code=True,
        samples=10,
        parse_question=_humaneval,
    ),
    Benchmark(
        name="mbpp_plus_chat",
        title="MBPP+",
        aliases=("mbpp-plus-chat", "mbpp+", "mbpp-plus"),
        files=("mbpp_plus.jsonl",),
        fields=_MBPP,
        url="https://huggingface.co/datasets/evalplus/mbppplus",
        licence="Apache-2.0",
        dataset=HubDataset(
            path="evalplus/mbppplus", split="test", columns={name: name for name in _MBPP}
        ),
        question_count=378,
        grader="reader",
        runs_code=True,
        samples=10,
        parse_question=_mbpp,
    ),
)
