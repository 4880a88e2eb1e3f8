"""Two sets of answers, read by us, by plain math_verify and by lm-eval: ours is never below.

The sets are in tests/data; `python -m benchmarks.answers` prints the tables of docs/evaluation.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from benchmarks.answers import (
    HEAD,
    MATH_VERIFY,
    OURS,
    Outcome,
    aime_outcomes,
    load_aime,
    load_math,
    math_outcomes,
    read_aime,
    table_rows,
)
from tests.support.paths import REPOSITORY
from worker.grading.math_grader import MathGrader

AIME, MATH = load_aime(), load_math()
PAGE = REPOSITORY / "docs" / "evaluation.md"


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, dict[str, list[Outcome]]]]:
    logging.disable(logging.CRITICAL)  # math_verify logs every time limit
    with MathGrader(processes=2) as math:
        yield {"AIME": aime_outcomes(AIME, math), "MATH": math_outcomes(MATH, math)}
    logging.disable(logging.NOTSET)


def test_the_sets_are_large_enough() -> None:
    assert len({case.text for case in AIME}) == len(AIME) >= 120
    assert len({(case.gold, case.text) for case in MATH}) == len(MATH) >= 400
    assert sum(case.reads is None for case in AIME) >= 50
    assert sum(not case.right for case in MATH) >= 150


def test_every_aime_answer_is_read_as_it_should_be() -> None:
    with MathGrader(processes=1) as math:
        read = read_aime([case.text for case in AIME], math)
    assert [
        (case.note, answer) for case, answer in zip(AIME, read, strict=True) if answer != case.reads
    ] == []


@pytest.mark.parametrize(("name", "cases"), [("AIME", AIME), ("MATH", MATH)])
def test_ours_is_never_below_math_verify(
    name: str, cases: list[object], outcomes: dict[str, dict[str, list[Outcome]]]
) -> None:
    ours, plain = outcomes[name][OURS], outcomes[name][MATH_VERIFY]
    below = [
        case
        for case, one, other in zip(cases, ours, plain, strict=True)
        if one.accepted != one.right and other.accepted == other.right
    ]
    assert below == []


def test_the_page_shows_the_tables(outcomes: dict[str, dict[str, list[Outcome]]]) -> None:
    rows = [row for name in ("AIME", "MATH") for row in table_rows(name, outcomes[name])]
    assert "\n".join([HEAD, *rows]) in PAGE.read_text()
