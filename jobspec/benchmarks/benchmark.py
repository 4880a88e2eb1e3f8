"""What a benchmark is made of. Each benchmark fills in one `Benchmark` in a file of its own.

A module of this package that has a tuple `BENCHMARKS` is found by `registry`; `aime.py` and
`gpqa_diamond.py` are files to copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import BenchmarkError
from jobspec.records.evaluation import Reading

CHOICE_LETTERS = "ABCDEFGHIJ"
PROMPT = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One question. `solution` is the worked one where the source has it.

    `choices` are those of a multiple-choice question, in the order in which they are asked.
    `prompt` and `reading` are the question's own, where the benchmark's do not hold for all.
    """

    id: str
    problem: str
    answer: str
    solution: str | None = None
    choices: tuple[str, ...] = ()
    prompt: str | None = None
    reading: Reading | None = None


class HubDataset(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset on the Hugging Face hub.

    Attributes:
        columns: field of our file → the dataset's column.
        config: of the dataset, if it has several.
        file: the JSONL file in its repository, where the dataset can't be loaded as such.
    """

    path: str
    split: str
    columns: Mapping[str, str]
    config: str | None = None
    file: str | None = None


class StockProtocol(msgspec.Struct, frozen=True, kw_only=True):
    """How lm-eval's own task asks and cuts (`eval.protocol: stock`).

    `prompt` has the placeholders of `Benchmark.prompt`. `examples` is the `module:function` of
    lm-eval that returns the worked examples, of which `shots` are shown. `stops` are the strings an
    answer is cut at, once thinking is over.
    """

    prompt: str
    stops: tuple[str, ...]
    shots: int = 0
    examples: str | None = None


class QuestionRow:
    """One row of a benchmark file. Its errors name the file and the row."""

    def __init__(self, values: Mapping[str, Any], file: Path, number: int, hint: str) -> None:
        self._values = values
        self._file = file
        self._number = number
        self._hint = hint

    def text(self, *names: str) -> str:
        """The first of these fields that the row has; whole numbers become text.

        Raises:
            BenchmarkError: none of them is there, or the first is empty.
        """
        value = next((self._values[name] for name in names if self._has(name)), None)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            wanted = " or ".join(f"`{name}`" for name in names)
            raise self.error(f"the field {wanted} is missing or empty", hint=self._hint)
        return value

    def value(self, *names: str) -> Any:
        """The first of these fields that the row has, whatever it is; None without any."""
        return next((self._values[name] for name in names if self._has(name)), None)

    @property
    def number(self) -> int:
        """The row's number in its file, counted from 1."""
        return self._number

    def optional_text(self, name: str) -> str | None:
        """The field's text, or None where there is none."""
        value = self._values.get(name)
        return value if isinstance(value, str) else None

    def error(self, message: str, *, hint: str | None = None) -> BenchmarkError:
        """An error that names this row."""
        return BenchmarkError(message, file=self._file, place=f"row {self._number}", hint=hint)

    def _has(self, name: str) -> bool:
        return self._values.get(name) is not None


def plain_question(row: QuestionRow) -> Question:
    """A row of the fields `id` (or `unique_id`), `problem`, `answer` and perhaps `solution`."""
    return Question(
        answer=row.text("answer"),
        id=row.text("id", "unique_id"),
        problem=row.text("problem"),
        solution=row.optional_text("solution"),
    )


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known about a benchmark.

    Args:
        name: what specs, results and metrics call it. One that holds `*` describes benchmarks that
            users bring along: every file whose name matches is read as this benchmark.
        title: what people call it.
        aliases: other names that are understood where a person names a benchmark.
        files: names its file may have, the one written by `jobspec fetch` first: `.jsonl` or
            `.csv`.
        fields: the fields that every row of the file needs, for messages.
        url: where the questions come from.
        licence: of the questions.
        dataset: where they are downloaded from; None where users must get the file themselves.
        question_count: how many there are; None where that depends on the file.
        samples: answers drawn for each question; None means the spec's `eval.avg_k`.
        prompt: the user turn, with the placeholders `{problem}` and `{choices}`.
        stock: how lm-eval's own task asks; None where it cannot be asked in that way.
        metric: the name of its main number; None means `avg_at_<k>`.
        grader: who judges a response, by name (`worker.grading.graders`): `exact`, `integer`,
            `math_verify`, or `reader`, the one that `Question.reading` names.
        extract_answer: for the grader `exact`: the answer that a response gives, spelled as in
            `Question.answer`; None where it gives none.
        runs_code: whether answers are programs, which are run in a sandbox.
        checks_instructions: whether answers are checked as IFEval does, with packages of its own.
        parse_question: makes a question of a row of the file.
    """

    name: str
    title: str
    url: str
    licence: str
    files: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    fields: tuple[str, ...] = ("id", "problem", "answer")
    dataset: HubDataset | None = None
    question_count: int | None = None
    samples: int | None = None
    prompt: str = PROMPT
    stock: StockProtocol | None = None
    metric: str | None = None
    grader: str = "exact"
    extract_answer: Callable[[str], str | None] | None = None
    runs_code: bool = False
    checks_instructions: bool = False
    parse_question: Callable[[QuestionRow], Question] = plain_question

    @property
    def describes_many(self) -> bool:
        """Whether this stands for all the files of a kind that users bring along."""
        return "*" in self.name

    def samples_per_question(self, avg_k: int) -> int:
        """Answers drawn for each question, given the spec's `eval.avg_k`."""
        return avg_k if self.samples is None else self.samples

    def main_metric(self, k: int) -> str:
        """The name of the number that `results` and `compare` show first."""
        return self.metric or f"avg_at_{k}"

    def ask(self, question: Question, *, stock: bool = False) -> str:
        """The user turn that asks a question.

        Args:
            stock: in the words of lm-eval's own task.
        """
        template = question.prompt or self.prompt
        if stock and self.stock is not None:
            template = self.stock.prompt
        lettered = zip(CHOICE_LETTERS, question.choices, strict=False)
        choices = "\n".join(f"{letter}) {text}" for letter, text in lettered)
        return template.format(problem=question.problem, choices=choices)
