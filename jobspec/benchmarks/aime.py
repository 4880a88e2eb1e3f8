"""AIME 2024 to 2026, and users' own benchmarks of the same kind: integers from 0 to 999.

The questions are © Mathematical Association of America. A benchmark of your own is a file
`aime_<something>.jsonl` in the benchmark directory, with the fields `id`, `problem` and `answer`.
"""

from __future__ import annotations

import re

import msgspec

from jobspec.benchmarks.benchmark import (
    Benchmark,
    HubDataset,
    Question,
    QuestionRow,
    StockProtocol,
    plain_question,
)
from jobspec.readers.integers import LARGEST


def _question(row: QuestionRow) -> Question:
    question = plain_question(row)
    written = re.fullmatch(r"\s*([0-9]{1,9})(?:\.0*)?\s*", question.answer)
    if written is None or int(written.group(1)) > LARGEST:
        raise row.error(
            f"the answer `{question.answer[:60]}` is not an integer from 0 to 999",
            hint="the answers of benchmarks named aime… are integers from 0 to 999",
        )
    return msgspec.structs.replace(question, answer=str(int(written.group(1))))


_AIME = Benchmark(
    name="aime*",
    title="your own, like AIME",
    url="",
    licence="yours",
    files=(),
    stock=StockProtocol(
        prompt="Question: {problem}\nAnswer:",
        stops=("Question:", "</s>", "<|im_end|>", "<|eot_id|>"),
    ),
    grader="integer",
    parse_question=_question,
)

BENCHMARKS = (
    msgspec.structs.replace(
        _AIME,
        name="aime24",
        title="AIME 2024",
        aliases=("aime2024", "aime-2024", "aime_2024"),
        files=("aime24.jsonl",),
        url="https://huggingface.co/datasets/Maxwell-Jia/AIME_2024",
        licence="MIT",
        dataset=HubDataset(
            path="Maxwell-Jia/AIME_2024",
            split="train",
            columns={"id": "ID", "problem": "Problem", "answer": "Answer", "solution": "Solution"},
        ),
        question_count=30,
    ),
    msgspec.structs.replace(
        _AIME,
        name="aime25",
        title="AIME 2025",
        aliases=("aime2025", "aime-2025", "aime_2025"),
        files=("aime25.jsonl",),
        url="https://huggingface.co/datasets/math-ai/aime25",
        licence="Apache-2.0",
        dataset=HubDataset(
            path="math-ai/aime25",
            split="test",
            columns={"id": "id", "problem": "problem", "answer": "answer"},
        ),
        question_count=30,
    ),
    msgspec.structs.replace(
        _AIME,
        name="aime26",
        title="AIME 2026",
        aliases=("aime2026", "aime-2026"),
        files=("aime26.jsonl",),
        url="https://artofproblemsolving.com/wiki/index.php/2026_AIME_I",
        licence="© MAA",
        question_count=30,
    ),
    _AIME,
)
