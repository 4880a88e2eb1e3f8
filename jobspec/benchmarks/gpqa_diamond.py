"""GPQA diamond: 198 questions of biology, chemistry and physics with four choices each.

The questions are gated, and their authors ask that they are not published as plain text: accept
the terms on the dataset's page and put its `gpqa_diamond.csv` into the benchmark directory. Ten
answers are drawn for each question, as in the Qwen3 report.

Source: Rein et al. 2023, arXiv:2311.12022; Qwen3 Technical Report, arXiv:2505.09388, section 4.6.
"""

from __future__ import annotations

from functools import partial

from jobspec.benchmarks.benchmark import Benchmark, Question, QuestionRow
from jobspec.benchmarks.multiple_choice import letter_answer, prompt, seeded_question

_NAME = "gpqa_diamond"
_INCORRECT = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def _question(row: QuestionRow) -> Question:
    return seeded_question(
        _NAME,
        row.text("Record ID"),
        row.text("Question").strip(),
        correct=row.text("Correct Answer").strip(),
        incorrect=[row.text(name).strip() for name in _INCORRECT],
    )


BENCHMARKS = (
    Benchmark(
        name=_NAME,
        title="GPQA diamond",
        aliases=("gpqa-diamond",),
        files=("gpqa_diamond.csv", "gpqa_diamond.jsonl"),
        fields=("Record ID", "Question", "Correct Answer", *_INCORRECT),
        url="https://huggingface.co/datasets/Idavidrein/gpqa",
        licence="CC BY 4.0",
        question_count=198,
        samples=10,
        prompt=prompt(4),
        extract_answer=partial(letter_answer, count=4),
        parse_question=_question,
    ),
)
