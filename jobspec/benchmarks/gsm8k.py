"""GSM8K: 1,319 grade-school problems, asked without examples in a chat turn.

lm-eval's task of the same name shows five examples to a base model; this is the form for chat and
thinking models.

Source: Cobbe et al. 2021, arXiv:2110.14168.
"""

from __future__ import annotations

from jobspec.benchmarks.benchmark import Benchmark, HubDataset, Question, QuestionRow
from jobspec.benchmarks.own import NUMBER
from jobspec.readers.numbers import HASHES, number_in, read_number
from jobspec.records.evaluation import Reading


def _question(row: QuestionRow) -> Question:
    solution = row.text("answer")
    found = read_number(solution)
    answer = found.value if found.rule == HASHES else number_in(solution)
    if answer is None:
        raise row.error("the field `answer` does not end in `#### ` and a number")
    return Question(
        id=str(row.value("id") or row.number),
        problem=row.text("question"),
        answer=answer,
        solution=solution,
        reading=Reading(reader=NUMBER),
    )


BENCHMARKS = (
    Benchmark(
        name="gsm8k_chat",
        title="GSM8K",
        aliases=("gsm8k-chat", "gsm-8k"),
        files=("gsm8k.jsonl",),
        fields=("question", "answer"),
        url="https://huggingface.co/datasets/openai/gsm8k",
        licence="MIT",
        dataset=HubDataset(
            path="openai/gsm8k",
            config="main",
            split="test",
            columns={"question": "question", "answer": "answer"},
        ),
        question_count=1319,
        samples=1,
        grader="reader",
        parse_question=_question,
    ),
)
