"""GPQA diamond: its file, the order of the choices, the prompt, and the letters read from answers.

The rows are made up: the real questions are gated and must not be published.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobspec.benchmarks import question_file, registry
from jobspec.benchmarks.question_file import QuestionSet
from jobspec.errors import BenchmarkError
from jobspec.records.evaluation import AskedQuestion, Generation, SamplingPlan
from jobspec.results import benchmark_scores
from tests.support.commands import jobspec
from worker import benchmark_download
from worker.evaluation import scoring
from worker.grading.math_grader import MathGrader

(GPQA,) = (each for each in registry.all_benchmarks() if each.name == "gpqa_diamond")
RIGHT = "Correct Answer"
WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def row(number: int) -> dict[str, str]:
    texts = {name: f"{number} × {i}\n" for i, name in enumerate((RIGHT, *WRONG))}
    return {
        "Pre-Revision Question": "not this one",
        "Question": f'What is "it", times {number}?\nSay so.',
        "Record ID": f"rec{number}",
        **texts,
    }


def write_csv(directory: Path, rows: list[dict[str, str]]) -> Path:
    path = directory / "gpqa_diamond.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path) -> QuestionSet:
    assert question_file.find(GPQA, [path.parent]) == path
    return question_file.read(GPQA, path)


def test_csv_and_jsonl_give_the_same_questions(tmp_path: Path) -> None:
    rows = [row(number) for number in range(198)]
    from_csv = read(write_csv(tmp_path, rows))
    (tmp_path / "jsonl").mkdir()
    jsonl = tmp_path / "jsonl" / "gpqa_diamond.jsonl"
    jsonl.write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert from_csv.questions == read(jsonl).questions
    assert len(from_csv.questions) == GPQA.question_count
    assert from_csv.questions[7].id == "rec7"
    assert from_csv.questions[7].problem == 'What is "it", times 7?\nSay so.'


def test_the_letter_is_that_of_the_correct_answer(tmp_path: Path) -> None:
    found = read(write_csv(tmp_path, [row(number) for number in range(198)])).questions
    for number, question in enumerate(found):
        assert question.choices["ABCD".index(question.answer)] == f"{number} × 0"
        assert sorted(question.choices) == [f"{number} × {i}" for i in range(4)]
    letters = Counter(question.answer for question in found)
    assert all(30 < letters[letter] < 70 for letter in "ABCD")


def test_the_order_of_the_choices_never_changes(tmp_path: Path) -> None:
    rows = [row(number) for number in range(5)]
    shuffled = [dict(each) for each in reversed(rows)]
    for each in shuffled:
        each[WRONG[0]], each[WRONG[2]] = each[WRONG[2]], each[WRONG[0]]
    found = read(write_csv(tmp_path, rows)).questions
    assert list(found) == list(reversed(read(write_csv(tmp_path, shuffled)).questions))
    assert "".join(question.answer for question in found) == "CBDBD"


def test_a_question_is_asked_with_its_choices(tmp_path: Path) -> None:
    (question,) = read(write_csv(tmp_path, [row(3)])).questions
    asked = GPQA.ask(question)
    a, b, c, d = question.choices
    assert "'Answer: $LETTER' (without quotes) where LETTER is one of ABCD." in asked
    assert asked.endswith(f"{question.problem}\n\nA) {a}\nB) {b}\nC) {c}\nD) {d}")


def test_a_row_without_a_choice_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path, [row(0), {**row(1), WRONG[1]: " "}])
    with pytest.raises(BenchmarkError, match="row 2: the field `Incorrect Answer 2`") as caught:
        read(path)
    assert "every row needs `Record ID`, `Question`, `Correct Answer`" in str(caught.value.hint)


def test_a_file_that_is_no_csv_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gpqa_diamond.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BenchmarkError, match="not a CSV file in UTF-8"):
        read(path)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: C", "C"),
        ("Answer: $C$", "C"),
        ("**Answer: C**", "C"),
        ("**Answer:** (C)", "C"),
        ("answer: c.", "C"),
        ("The answer is (C).", "C"),
        ("The correct answer is **C) 7 eV**.", "C"),
        (r"Answer: \boxed{C}", "C"),
        (r"Answer: $\text{C}$", "C"),
        ("Answer: A\nNo, wait.\nAnswer: C", "C"),
        ("Option A and option B are wrong.\n\nAnswer: D", "D"),
        (r"So it must be $\boxed{C}$.", "C"),
        (r"So it must be \boxed{\text{C) seven}}.", "C"),
        (r"So it must be \boxed{(C)}.", "C"),
        ("C", None),
        ("The answer is a matter of taste.", None),
        ("The answer is E.", None),
        ("The answer is I think the second one.", None),
        ("the answer is\nc", "C"),
        ("Answer: Carbon", None),
        (r"\boxed{Carbon}", None),
        (r"\boxed{7}", None),
        ("", None),
    ],
)
def test_letters_are_read_from_answers(text: str, letter: str | None) -> None:
    assert GPQA.extract_answer is not None
    assert GPQA.extract_answer(text) == letter


def test_samples_are_scored_by_their_letter() -> None:
    texts = ["<think>Answer: A</think>Answer: B", "Answer: A", "no idea", "<think>Answer: B"]
    rows = [
        Generation(question="q", sample=i, seed=i, text=text, tokens=1, finish="stop")
        for i, text in enumerate(texts)
    ]
    plan = SamplingPlan(key="", benchmark=GPQA.name, k=4, chunks=1, think_end_token="</think>")
    with MathGrader() as math:
        (found,) = scoring.score(GPQA, plan, [(AskedQuestion(id="q", answer="B"), rows)], math)
    assert [sample.answer for sample in found.samples] == ["B", "A", None, None]
    assert [sample.right for sample in found.samples] == [True, False, False, False]
    assert next(iter(benchmark_scores.metrics(GPQA, 10))) == "avg_at_10"


def test_without_its_file_nothing_is_downloaded_and_nothing_enqueued(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="can't be downloaded") as caught:
        benchmark_download.load("gpqa_diamond", [tmp_path], tmp_path)
    assert "huggingface.co/datasets/Idavidrein/gpqa" in str(caught.value.hint)
    options: list[Any] = ["--checkpoint", "a/b", "--root", tmp_path / "root"]
    done = jobspec("eval", *options, "--benchmarks", "GPQA-Diamond", code=1)
    assert "there is no file of `gpqa_diamond` here" in done.stderr
    assert "put gpqa_diamond.csv into eval.benchmark_dir" in done.stderr


def test_a_spec_keeps_the_canonical_name(tmp_path: Path) -> None:
    write_csv(tmp_path, [row(number) for number in range(198)])
    options: list[Any] = ["--checkpoint", "a/b", "--root", tmp_path / "root", "--json"]
    done = jobspec(
        "eval", *options, "--benchmarks", "GPQA-diamond", JOBSPEC_BENCHMARK_DIR=str(tmp_path)
    )
    (part,) = json.loads(done.stdout)["scoring"]["benchmarks"]
    assert (part["benchmark"], part["questions"], part["k"]) == ("gpqa_diamond", 198, 10)
