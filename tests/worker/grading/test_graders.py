"""Answer extraction and grading against recorded cases, the tricky ones included."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobspec.benchmarks import registry
from jobspec.readers.final_answer import boxes, locate
from jobspec.readers.integers import read_integer
from jobspec.records.evaluation import AskedQuestion
from tests.support.paths import DATA, needs_data
from worker.grading.graders import GRADERS
from worker.grading.math_grader import MathGrader
from worker.thinking import answer_text, think_tags

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "answer_cases.jsonl").read_text().splitlines()
]
AIME = [case for case in CASES if case["form"] == "aime"]
MATH = [case for case in CASES if case["form"] == "math"]


def read(case: dict[str, Any]) -> str | None:
    tags = think_tags(case.get("think_end_token", "</think>"))
    return answer_text(case["text"], tags, opened=case.get("opened", False))


def name(case: dict[str, Any]) -> str:
    return case["note"].replace(" ", "-")


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader(processes=2) as made:
        yield made


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200
    assert len({json.dumps(case, sort_keys=True) for case in CASES}) == len(CASES)


def integers(grader: MathGrader, texts: list[str | None]) -> list[str | None]:
    """What the grader of AIME reads in texts."""
    aime = registry.get("aime24")
    assert aime is not None
    question = AskedQuestion(id="q", answer="0")
    (judged,) = GRADERS[aime.grader](aime, [question], [texts], grader)
    return [judgement.answer for judgement in judged]


def test_aime_cases(grader: MathGrader) -> None:
    texts = [read(case) for case in AIME]
    assert [case["note"] for case, text in zip(AIME, texts, strict=True)
            if (text is None) != case.get("unclosed", False)] == []  # fmt: skip
    answers = integers(grader, texts)
    assert [
        (case["note"], answer)
        for case, answer in zip(AIME, answers, strict=True)
        if answer != case["answer"]
    ] == []


@pytest.mark.parametrize("case", MATH, ids=name)
def test_unclosed_thought_in_math_case(case: dict[str, Any]) -> None:
    assert (read(case) is None) == case.get("unclosed", False)


def test_math_cases(grader: MathGrader) -> None:
    read_cases = [(case, text) for case in MATH if (text := read(case)) is not None]
    judgements = grader.grade([(f"\\boxed{{{case['gold']}}}", text) for case, text in read_cases])
    wrong = [
        case["note"]
        for (case, _), judgement in zip(read_cases, judgements, strict=True)
        if judgement.right != case["right"]
    ]
    assert wrong == []


@needs_data
def test_every_math500_answer_in_a_box_is_right(grader: MathGrader) -> None:
    rows = [json.loads(line) for line in (DATA / "math500.jsonl").read_text().splitlines()]
    pairs = [(row["solution"], f"so $\\boxed{{{row['answer']}}}$") for row in rows]
    assert [
        row["unique_id"]
        for row, judgement in zip(rows, grader.grade(pairs), strict=True)
        if not judgement.right
    ] == []


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 20_000 + "the answer is " * 20_000,
        "1" * 100_000 + "\\boxed{7" + "0" * 100_000 + "}",
        "the answer is " + "a " * 50_000,
        "\\boxed{" + "\\text{a} " * 400 + "!}",
        "the answer is " + "\\text{" * 5_000,
        "\\boxed{}" * 20_000,
        "answer " * 20_000 + "x",
        "final answer " * 20_000 + "\\boxed{" + "{" * 1900,
    ],
)  # fmt: skip
def test_a_huge_text_is_read_in_linear_time(text: str) -> None:
    started = time.process_time()
    assert read_integer(text).answer is None
    locate(text)
    assert time.process_time() - started < 1.0


def test_every_benchmark_has_a_grader_that_is_complete() -> None:
    for benchmark in registry.all_benchmarks():
        assert benchmark.grader in GRADERS
        assert (benchmark.grader == "exact") == (benchmark.extract_answer is not None)


@pytest.mark.parametrize("content", ["x boxed y", "\\{1", "\\{1\\}", "{1}"])
def test_a_box_ends_at_its_own_brace(content: str) -> None:
    found = boxes(f"so \\boxed{{{content}}} it is}}")
    assert found is not None
    assert found.contents == (content,)
