"""The reader of answers against recorded cases, the tricky ones included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.evaluations import DATA, needs_data
from worker.evaluation.answer_extraction import Thinking, aime_answer, answer_text, boxed
from worker.evaluation.math_grader import Judge

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "answer_cases.jsonl").read_text().splitlines()
]
AIME = [case for case in CASES if case["form"] == "aime"]
MATH = [case for case in CASES if case["form"] == "math"]


def read(case: dict[str, Any]) -> str | None:
    thinking = Thinking.from_end(case.get("think_end_token", "</think>"))
    return answer_text(case["text"], thinking, opened=case.get("opened", False))


def name(case: dict[str, Any]) -> str:
    return case["note"].replace(" ", "-")


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(processes=2) as made:
        yield made


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200
    assert len({json.dumps(case, sort_keys=True) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", AIME, ids=name)
def test_aime_case(case: dict[str, Any]) -> None:
    text = read(case)
    assert (text is None) == case.get("unclosed", False)
    assert (None if text is None else aime_answer(text)) == case["answer"]


@pytest.mark.parametrize("case", MATH, ids=name)
def test_unclosed_thought_in_math_case(case: dict[str, Any]) -> None:
    assert (read(case) is None) == case.get("unclosed", False)


def test_math_cases(judge: Judge) -> None:
    read_cases = [(case, text) for case in MATH if (text := read(case)) is not None]
    verdicts = judge.judge([(f"\\boxed{{{case['gold']}}}", text) for case, text in read_cases])
    wrong = [
        case["note"]
        for (case, _), verdict in zip(read_cases, verdicts, strict=True)
        if verdict.right != case["right"]
    ]
    assert wrong == []


@needs_data
def test_every_math500_answer_in_a_box_is_right(judge: Judge) -> None:
    rows = [json.loads(line) for line in (DATA / "math500.jsonl").read_text().splitlines()]
    pairs = [(row["solution"], f"so $\\boxed{{{row['answer']}}}$") for row in rows]
    assert [
        row["unique_id"]
        for row, verdict in zip(rows, judge.judge(pairs), strict=True)
        if not verdict.right
    ] == []


def test_a_huge_text_is_read_in_linear_time() -> None:
    filler = "\\boxed{" * 20_000 + "the answer is " * 20_000
    assert boxed(filler) is None
    assert aime_answer(filler) is None
    assert aime_answer("1" * 100_000 + "\\boxed{7" + "0" * 100_000 + "}") is None


@pytest.mark.parametrize(
    ("end", "opens"),
    [
        ("</think>", "<think>"),
        ("[/THINK]", "[THINK]"),
        ("</reasoning>", "<reasoning>"),
        ("END", None),
    ],
)
def test_the_opening_tag_follows_from_the_closing_one(end: str, opens: str | None) -> None:
    assert Thinking.from_end(end) == Thinking(opens, end)


def test_a_thought_closed_at_once_is_closed() -> None:
    thinking = Thinking.from_end("</think>")
    assert answer_text("</think>70", thinking, opened=True) == "70"


@pytest.mark.parametrize("content", ["x boxed y", "\\{1", "\\{1\\}", "{1}"])
def test_a_box_ends_at_its_own_brace(content: str) -> None:
    assert boxed(f"so \\boxed{{{content}}} it is}}") == content
