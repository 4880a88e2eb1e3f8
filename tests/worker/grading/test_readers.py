"""The readers of users' own benchmarks: what each of them finds in a response."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from jobspec.benchmarks import registry
from jobspec.readers.numbers import number_in, read_number
from jobspec.readers.program_cases import ProgramCases
from jobspec.records.evaluation import AskedQuestion, Reading
from tests.support.lm_eval_tasks import needs_sandbox
from worker.grading import programs
from worker.grading.graders import GRADERS
from worker.grading.math_grader import MathGrader
from worker.grading.math_reader import Judgement


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader(processes=1) as made:
        yield made


def judge(grader: MathGrader, reading: Reading, answer: str, *texts: str | None) -> list[Judgement]:
    own = registry.get("own_x")
    assert own is not None
    question = AskedQuestion(id="q", answer=answer, reading=reading)
    (judged,) = GRADERS[own.grader](own, [question], [list(texts)], grader)
    return judged


@pytest.mark.parametrize(
    ("latex", "value"),
    [
        ("1,234", "1234"), ("1{,}234.50", "1234.5"), ("1 234", "1234"), ("1\\,234", "1234"),
        ("-5", "-5"), ("−5", "-5"), (".5", "0.5"), ("3/4", "0.75"), ("-\\frac12", "-0.5"),
        ("\\frac{1}{3}", "1/3"), ("3\\frac{1}{2}", "3.5"), ("\\$18.00", "18"), ("€5", "5"),
        ("50\\%", "50"), ("1e3", "1000"), ("1.2\\times 10^{-2}", "0.012"), ("x = 3.5", "3.5"),
        ("about 3.5 km", "3.5"), ("18 = x+y", "18"), ("-0", "0"), ("007", "7"),
        ("70!", None), ("2+3", None), ("7 or 8", None), ("3\\pi", None), ("5^2", None),
        ("2,5", None), ("10:30", None), ("1/0", None), ("half of 7", None), ("not 7", None),
        ("", None), ("x", None), ("1" * 3000, None),
    ],
)  # fmt: skip
def test_numbers_are_read_by_value(latex: str, value: str | None) -> None:
    assert number_in(latex) == value


@pytest.mark.parametrize(
    ("text", "value", "rule"),
    [
        ("So 9 * 2 = 18.\n#### 18", "18", "after ####"),
        ("First 5.\nThe answer is $1,234.50.", "1234.5", "phrase"),
        ("5 or so.\n\n**Final Answer**\n-3", "-3", "phrase"),
        ("\\boxed{3.50}", "3.5", "box"),
        ("\\boxed{7} or \\boxed{8}", None, "box"),
        ("The answer is 7. \\boxed{8", None, "box"),
        ("He has 5 apples. Together that makes 2 * 3 = 6 apples.", "6", "last sentence"),
        ("He has 5 apples. Later he has 3 apples and 4 pears.", None, "last sentence"),
        ("No idea.", None, None),
    ],
)
def test_where_a_number_is_found(text: str, value: str | None, rule: str | None) -> None:
    assert read_number(text)[:2] == (value, rule)


def test_choices_are_letters_or_their_texts(grader: MathGrader) -> None:
    reading = Reading(reader="choice", choices=("Rome", "New York", "Bern"))
    right = ["Answer: B", "\\boxed{B}", "b", "(B)", "\\boxed{\\text{New York}}", "Answer: new york"]
    wrong = [
        "Answer: A",
        "\\boxed{B} or \\boxed{C}",
        "Bern",
        "Both",
        "",
        "Answer: Paris",
        "\\boxed{B",
    ]
    judged = judge(grader, reading, "B", *right, *wrong, None)
    found = [judgement.right for judgement in judged]
    right.remove("b")  # a small letter alone could be anything
    assert found == [True, True, False, True, True, True, *[False] * 8]
    assert (judged[0].answer, judged[0].rule, judged[0].read) == ("B", "phrase", "Answer: B")


def test_words_are_compared_without_markup_and_case(grader: MathGrader) -> None:
    right = [
        "Paris", "so\n**paris**.", "The answer is \"Paris\".", "\\boxed{\\text{Paris}}",
        "<answer>PARIS</answer>",
    ]  # fmt: skip
    wrong = ["Paris or Rome", "\\boxed{Paris} and \\boxed{Rome}", "Paris\nRome", "Parison", ""]
    judged = judge(grader, Reading(reader="exact"), "Paris", *right, *wrong)
    assert [each.right for each in judged] == [True] * 5 + [False] * 5


def test_the_last_match_of_a_pattern_counts_and_a_slow_one_delays_nothing(
    grader: MathGrader,
) -> None:
    reading = Reading(reader="regex", pattern=r"^Move: (\w+)$")
    judged = judge(grader, reading, "e4", "Move: d4\nMove: E4", "Move: e4\nMove: d4", "e4")
    assert [(each.right, each.answer) for each in judged] == [
        (True, "e4"), (False, "d4"), (False, None)
    ]  # fmt: skip
    slow = Reading(reader="regex", pattern=r"(?:a+)+(e4)")
    started = time.monotonic()
    with MathGrader(processes=1, limit_s=1) as impatient:
        judged = judge(impatient, slow, "e4", "a" * 60, "ae4")
    assert [each.right for each in judged] == [False, True]
    assert time.monotonic() - started < 60


@needs_sandbox
def test_programs_are_tried_with_tests_inputs_and_calls(grader: MathGrader) -> None:
    add = "def add(a, b):\n    return a {} b"
    tests = Reading(reader="code", tests="assert add(1, 2) == 3")
    block = "Sure.\n```python\n{}\n```\nDone."
    judged = judge(
        grader,
        tests,
        "",
        block.format(add.format("+")),
        block.format(add.format("-")),
        block.format("wrong(") + "\n" + block.format(add.format("+")),
        add.format("+"),
        "```python\n" + add.format("+"),
        "I can't.",
    )
    assert [each.right for each in judged] == [True, False, True, True, False, False]
    assert (judged[1].answer, judged[5].answer) == ("fails its tests", None)
    assert judged[0].value != judged[1].value, "maj@k counts programs"
    inputs = Reading(
        reader="code",
        cases=ProgramCases(cases=(("1 2\n", "3\n"), ("5\n6", "11.0"))).packed(),
    )
    calls = Reading(
        reader="code", cases=ProgramCases(cases=(("[1]\n2", "[1, 2]"),), function="f").packed()
    )
    read = "import sys\na, b = map(int, sys.stdin.{}.read().split())\n"
    assert programs.pass_tests(
        [
            (read.format("buffer") + "print(a + b)\nsys.exit()", inputs),
            ("a, b = map(int, open(0).read().split())\nprint(a + b, end='')", inputs),
            ("print(3)", inputs),
            ("import os\nos._exit(0)", inputs),
            (
                "class Solution:\n    def f(self, a, b):\n        print(a)\n        return a + [b]",
                calls,
            ),
            ("def f(a, b): return (*a, b)", calls),
            ("def f(a, b): return a", calls),
        ]
    ) == [True, True, False, False, True, True, False]
