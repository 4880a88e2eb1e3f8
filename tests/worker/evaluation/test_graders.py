"""Answer extraction and grading against recorded cases, the tricky ones included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobspec.benchmarks import registry
from jobspec.benchmarks.aime import integer_answer
from jobspec.benchmarks.boxed import boxed
from tests.support.paths import DATA, needs_data
from worker.evaluation.graders import GRADERS
from worker.evaluation.math_grader import MathGrader
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


@pytest.mark.parametrize("case", AIME, ids=name)
def test_aime_case(case: dict[str, Any]) -> None:
    text = read(case)
    assert (text is None) == case.get("unclosed", False)
    assert (None if text is None else integer_answer(text)) == case["answer"]


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


def test_a_huge_text_is_read_in_linear_time() -> None:
    filler = "\\boxed{" * 20_000 + "the answer is " * 20_000
    assert boxed(filler) is None
    assert integer_answer(filler) is None
    assert integer_answer("1" * 100_000 + "\\boxed{7" + "0" * 100_000 + "}") is None


def test_every_benchmark_has_a_grader_that_is_complete() -> None:
    for benchmark in registry.all_benchmarks():
        assert benchmark.grader in GRADERS
        assert (benchmark.grader == "exact") == (benchmark.extract_answer is not None)


@pytest.mark.parametrize("content", ["x boxed y", "\\{1", "\\{1\\}", "{1}"])
def test_a_box_ends_at_its_own_brace(content: str) -> None:
    assert boxed(f"so \\boxed{{{content}}} it is}}") == content
