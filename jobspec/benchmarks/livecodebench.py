"""LiveCodeBench, the problems that release 6 added: programs and functions with hidden tests.

A `livecodebench.jsonl` of your own may hold the rows of other releases.

Source: Jain et al. 2024, arXiv:2403.07974; prompts and imports: github.com/LiveCodeBench (MIT).
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from typing import Any

from jobspec.benchmarks.benchmark import Benchmark, HubDataset, Question, QuestionRow
from jobspec.benchmarks.own import CODE
from jobspec.readers.program_cases import ProgramCases
from jobspec.records.evaluation import Reading

_ASK = "### Question:\n{problem}\n\n### Format: "
_FUNCTION = (
    "You will use the following starter code to write the solution to the problem and enclose your "
    "code within delimiters.\n```python\n{code}\n```\n\n"
)
_PROGRAM = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when "
    "the python program runs, it reads the inputs, runs the algorithm and writes output to STDOUT."
    "\n```python\n# YOUR CODE HERE\n```\n\n"
)
_END = "### Answer: (use the provided format with backticks)\n\n"
_MODULES = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random"),
    *("statistics", "itertools", "functools", "operator", "io", "sys", "json", "builtins"),
    "typing",
)
_SETUP = "".join(f"from {each} import *\n" for each in _MODULES) + "".join(
    f"import {each}\n" for each in ("string", "re", "collections", "heapq", "bisect", "math", "sys")
)


class _OnlyData(pickle.Unpickler):
    """Reads a pickle of plain data. Anything that would call code is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"refers to {module}.{name}")


def _question(row: QuestionRow) -> Question:
    try:
        tests = [*_tests(row.text("public_test_cases")), *_tests(row.text("private_test_cases"))]
        cases = tuple((str(each["input"]), str(each["output"])) for each in tests)
        function = json.loads(row.optional_text("metadata") or "{}").get("func_name")
    except (ValueError, KeyError, TypeError, EOFError, zlib.error, pickle.PickleError) as error:
        raise row.error(f"its tests can't be read: {error}") from error
    starter = row.optional_text("starter_code") or ""
    form = _FUNCTION.format(code=starter) if starter.strip() else _PROGRAM
    return Question(
        id=row.text("question_id"),
        problem=row.text("question_content"),
        answer="a program that passes the tests",
        prompt=_ASK + (form + _END).replace("{", "{{").replace("}", "}}"),
        reading=Reading(
            reader=CODE,
            setup=_SETUP,
            cases=ProgramCases(cases=cases, function=function).packed(),
        ),
    )


def _tests(text: str) -> list[dict[str, Any]]:
    """JSON, or JSON in a compressed pickle, as the hidden tests are published."""
    if not text.lstrip().startswith("["):
        data = zlib.decompress(base64.b64decode(text))
        text = _OnlyData(io.BytesIO(data)).load()
    return json.loads(text)


_FIELDS = (
    *("question_id", "question_content", "starter_code", "public_test_cases"),
    *("private_test_cases", "metadata"),
)
BENCHMARKS = (
    Benchmark(
        name="livecodebench",
        title="LiveCodeBench v6",
        aliases=("live-code-bench", "lcb"),
        files=("livecodebench.jsonl",),
        fields=_FIELDS,
        url="https://huggingface.co/datasets/livecodebench/code_generation_lite",
        licence="CC",
        dataset=HubDataset(
            path="livecodebench/code_generation_lite",
            file="test6.jsonl",
            split="train",
            columns={name: name for name in _FIELDS},
        ),
        question_count=175,
        grader="reader",
        runs_code=True,
        samples=10,
        parse_question=_question,
    ),
)
