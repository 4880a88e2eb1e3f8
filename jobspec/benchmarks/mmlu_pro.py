"""MMLU-Pro: 12,032 questions of 14 subjects with up to ten choices each.

Source: Wang et al. 2024, arXiv:2406.01574.
"""

from __future__ import annotations

from typing import Any, cast

from jobspec.benchmarks.benchmark import (
    CHOICE_LETTERS,
    Benchmark,
    HubDataset,
    Question,
    QuestionRow,
)
from jobspec.benchmarks.multiple_choice import prompt
from jobspec.benchmarks.own import CHOICE
from jobspec.records.evaluation import Reading


def _question(row: QuestionRow) -> Question:
    options = row.value("options")
    given = cast("list[Any]", options) if isinstance(options, list) else []
    choices = tuple(each for each in given if isinstance(each, str))
    if len(choices) != len(given) or not 2 <= len(choices) <= len(CHOICE_LETTERS):
        raise row.error("the field `options` is not a list of 2 to 10 texts")
    answer, letters = row.text("answer").strip(), CHOICE_LETTERS[: len(choices)]
    if len(answer) != 1 or answer not in letters:
        raise row.error(f"the answer `{answer[:60]}` is none of {letters}")
    return Question(
        id=row.text("question_id"),
        problem=row.text("question"),
        answer=answer,
        choices=choices,
        prompt=prompt(len(choices)),
        reading=Reading(reader=CHOICE, choices=choices),
    )


_FIELDS = ("question_id", "question", "options", "answer")
BENCHMARKS = (
    Benchmark(
        name="mmlu_pro_chat",
        title="MMLU-Pro",
        aliases=("mmlu-pro-chat", "mmlu-pro"),
        files=("mmlu_pro.jsonl",),
        fields=_FIELDS,
        url="https://huggingface.co/datasets/TIGER-Lab/MMLU-Pro",
        licence="MIT",
        dataset=HubDataset(
            path="TIGER-Lab/MMLU-Pro", split="test", columns={name: name for name in _FIELDS}
        ),
        question_count=12032,
        samples=1,
        grader="reader",
        parse_question=_question,
    ),
)
