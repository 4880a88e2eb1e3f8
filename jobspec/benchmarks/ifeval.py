"""IFEval: 541 prompts with instructions that a program can check, such as a number of words.

The score is the share of prompts all of whose instructions are followed to the letter ("strict").
A thinking model is judged by what it writes after thinking.

Source: Zhou et al. 2023, arXiv:2311.07911.
"""

from __future__ import annotations

import json
from typing import Any, cast

from jobspec.benchmarks.benchmark import Benchmark, HubDataset, Question, QuestionRow
from jobspec.records.evaluation import Reading

READER = "instructions"
_FIELDS = ("key", "prompt", "instruction_id_list", "kwargs")


def _question(row: QuestionRow) -> Question:
    ids, arguments = (_listed(row, name) for name in _FIELDS[2:])
    if not ids or len(ids) != len(arguments):
        raise row.error("`instruction_id_list` and `kwargs` need one entry for each instruction")
    if not all(isinstance(each, str) for each in ids):
        raise row.error("`instruction_id_list` holds names of instructions, as text")
    if not all(isinstance(each, dict) for each in arguments):
        raise row.error("`kwargs` holds an object for each instruction")
    prompt = row.text("prompt")
    return Question(
        id=row.text("key"),
        problem=prompt,
        answer="follows its instructions",
        reading=reading(ids, prompt, arguments),
    )


def reading(ids: list[str], prompt: str, arguments: list[dict[str, Any]]) -> Reading:
    """What to check: the instructions' names, the prompt, and the arguments of each instruction."""
    asked = {"ids": ids, "prompt": prompt, "kwargs": arguments}
    return Reading(reader=READER, instructions=json.dumps(asked))


def _listed(row: QuestionRow, name: str) -> list[Any]:
    value = row.value(name)
    if not isinstance(value, list):
        raise row.error(f"the field `{name}` is missing or no list")
    return cast("list[Any]", value)


BENCHMARKS = (
    Benchmark(
        name="ifeval_chat",
        title="IFEval",
        aliases=("ifeval-chat", "if-eval"),
        files=("ifeval.jsonl",),
        fields=_FIELDS,
        url="https://huggingface.co/datasets/google/IFEval",
        licence="Apache 2.0",
        dataset=HubDataset(
            path="google/IFEval", split="train", columns={name: name for name in _FIELDS}
        ),
        question_count=541,
        samples=1,
        prompt="{problem}",
        grader="reader",
        checks_instructions=True,
        parse_question=_question,
    ),
)
