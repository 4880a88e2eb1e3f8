"""Which rows contain a question: spelled otherwise, in part, in other words, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import DATA, needs_data
from worker.contamination.question_index import QuestionIndex
from worker.rows.row import ChatRow, parse_row

WALK = (
    "Every morning Aya goes for a $9$-kilometer-long walk and stops at a coffee shop afterwards. "
    "When she walks at a constant speed of $s$ kilometers per hour, the walk takes her 4 hours."
)
ROOTS = "Let $x,y$ satisfy $\\frac{x}{2}+\\sqrt{y}=7$ and $x^{2}-y^2=1{,}000$. Find $xy$, if $x>y$."
FRACTION = "Express your answer as a common fraction in lowest terms."
SHORT = "Simplify $\\frac{\\sqrt{242}}{3}$."


def row(*contents: str, **fields: Any) -> ChatRow:
    """A conversation that begins with the user."""
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": text}
        for i, text in enumerate([*contents, "4"] if len(contents) % 2 else contents)
    ]
    messages[0] |= fields
    return parse_row(json.dumps({"messages": messages}).encode(), 1, Path("rows.jsonl"))


def finds(question: str, *contents: str, beside: tuple[str, ...] = (), **fields: Any) -> bool:
    return 0 in QuestionIndex.of([question, *beside]).find(row(*contents, **fields))


SPELLINGS = {
    "as it is": WALK,
    "in a prompt": f"Solve this problem.\n\n{WALK}\n\nPut your answer in \\boxed{{}}.",
    "upper case": WALK.upper(),
    "spaces": WALK.replace(" ", " \n\u00a0 "),
    "no spaces": WALK.replace(" ", ""),
    "no punctuation": WALK.replace(",", "").replace(".", " ").replace("-", " "),
    "no dollars": WALK.replace("$", ""),
    "other dollars": WALK.replace("$9$", "\\(9\\)").replace("$s$", "\\[ s \\]"),
    "zero-width spaces": WALK.replace("walk", "wa\u200blk"),
    "full width": WALK.replace("9", "９").replace("Aya", "Ａｙａ"),
    "bold": WALK.replace("coffee shop", "**coffee** \\textbf{shop}"),
    "one word differs": WALK.replace("constant", "steady"),
    "the last words are missing": WALK.removesuffix(" the walk takes her 4 hours."),
    "a figure in between": WALK.replace(". ", ". [asy]\ndraw((0,0)--(2,4));\n[/asy] ", 1),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_question_is_found_however_it_is_spelled(name: str) -> None:
    assert finds(WALK, SPELLINGS[name])


@pytest.mark.parametrize(
    "text",
    [
        ROOTS.replace("\\frac", "\\dfrac").replace("^{2}", "^2"),
        ROOTS.replace("x,y", "x,\\,y").replace("+", "\\;+\\; ").replace("{,}", ","),
        ROOTS.replace("\\frac{x}{2}", "\\left(\\frac x2\\right)").replace("1{,}000", "1000"),
        ROOTS.replace("\\frac{x}{2}", "x/2").replace("\\sqrt{y}", "√y").replace("x^{2}", "x²"),
        "\\begin{align*}" + ROOTS.replace("$", "") + "\\end{align*}",
        ROOTS.replace("xy", "x\\,y").replace("$", "$$\n"),
    ],
)
def test_latex_makes_no_difference(text: str) -> None:
    assert finds(ROOTS, text)


@pytest.mark.parametrize(
    "fields", [{"reasoning_content": WALK}, {"content": [{"type": "text", "text": WALK}]}]
)
def test_every_text_of_a_row_is_searched(fields: dict[str, Any]) -> None:
    assert finds(WALK, "2+2?", **fields)
    assert finds(WALK, "2+2?", f"<think>Like this one: {WALK}</think>4")


@pytest.mark.parametrize(
    "text",
    [
        "Every morning Bob goes for a swim and stops at a coffee shop afterwards. How long?",
        WALK[: len(WALK) // 2],
        "the walk takes her 4 hours. " * 20,
        "Every morning I read. A walk of 9 kilometers takes 4 hours at a constant speed.",
    ],
)
def test_a_part_of_a_question_or_another_one_is_not_found(text: str) -> None:
    assert not finds(WALK, text)


def test_phrases_that_questions_share_are_not_counted() -> None:
    asked = [f"Compute $0.{n}-0.4+0.2$. {FRACTION}" for n in (1, 2, 3)]
    assert finds(asked[0], asked[0], beside=tuple(asked[1:]))
    assert not finds(
        asked[0], f"What fraction of a dozen is 7? {FRACTION}", beside=tuple(asked[1:])
    )
    assert finds(asked[0], f"What fraction of a dozen is 7? {FRACTION}"), "else it would be found"


def test_questions_that_differ_in_a_number_are_told_apart() -> None:
    asked = [f"Which place in the alphabet has the letter {one * 6}?" for one in "abcd"]
    index = QuestionIndex.of(asked)
    assert index.find(row(f"{asked[2]}\n\nReason step by step.")) == {2}


@pytest.mark.parametrize(
    "text",
    [
        SHORT,
        f"Please help: {SHORT} Put the answer in a box.",
        "simplify $\\dfrac{ \\sqrt {242} }{ 3 }$",
        "Simplify: \\[\\left.\\frac{\\sqrt{242}}{3}\\right.\\]",
    ],
)
def test_a_short_question_is_found_in_a_prompt(text: str) -> None:
    assert finds(SHORT, text)


@pytest.mark.parametrize(
    "text",
    [
        "Simplify $\\frac{\\sqrt{242}}{33}$.",
        "Simplify $\\frac{\\sqrt{242}}{3}+1$.",
        "Simplify $\\frac{\\cos{242}}{3}$.",
        "Simplify $\\sqrt{242}-3$.",
    ],
)
def test_another_short_question_is_not_found(text: str) -> None:
    assert not finds(SHORT, text)


def test_a_short_question_in_an_answer_is_not_found() -> None:
    assert not finds(SHORT, "Find it.", f"<think>First: {SHORT} Then the rest.</think>4")
    assert finds(SHORT, f"First: {SHORT} Then the rest.", "4")


@pytest.mark.parametrize("question", ["Find x.", "What is the answer?", "Why?", "Solve it: $x$"])
def test_a_generic_question_is_not_looked_for(question: str) -> None:
    index = QuestionIndex.of([question, WALK])
    assert index.judged == 1
    assert index.find(row(question)) == set()


def test_words_without_spaces_between_them_are_compared_too() -> None:
    question = (
        "一个正整数除以三余二，除以五余三，除以七余二，求满足条件的最小正整数，并说明你的推理过程。"
    )
    assert finds(question, f"请解答：{question.replace('，', ', ')}")
    assert not finds(question, "一个正整数除以三余二，求它的平方除以三的余数。")


@needs_data
@pytest.mark.parametrize("name", ["aime24", "aime25", "math500"])
def test_real_questions_are_found_and_only_themselves(name: str) -> None:
    lines = (DATA / f"{name}.jsonl").read_text().splitlines()
    questions = [json.loads(line)["problem"] for line in lines]
    index = QuestionIndex.of(questions)
    found = [index.find(row(f"Q: {question}\nThink.")) for question in questions]
    missed = [at for at, numbers in enumerate(found) if at not in numbers]
    assert len(missed) == len(questions) - index.judged <= len(questions) // 100
    others = sum(len(numbers - {at}) for at, numbers in enumerate(found))
    assert others <= 2, "of 250,000 pairs"


@needs_data
def test_real_rows_that_ask_something_else_are_not_found() -> None:
    questions = [
        json.loads(line)["problem"]
        for name in ("aime24", "aime25", "math500")
        for line in (DATA / f"{name}.jsonl").read_text().splitlines()
    ]
    index = QuestionIndex.of(questions)
    lines = (DATA / "sft_reasoning.jsonl").read_bytes().splitlines()
    rows = [parse_row(line, n, DATA) for n, line in enumerate(lines, 1)]
    assert [one.number for one in rows if index.find(one)] == []
