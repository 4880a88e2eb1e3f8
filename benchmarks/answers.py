"""How well answers are read: ours, plain math_verify, and lm-eval's own AIME task.

    python -m benchmarks.answers            # the tables of docs/evaluation.md
    python -m benchmarks.answers --speed    # seconds to grade 31,000 answers, and hostile ones

Reads tests/data/aime_answers.jsonl (a response, and the integer that it gives or null) and
tests/data/math_answers.jsonl (an expected answer, a response, and whether it is right). `--aime`
adds a file like the first.
"""

from __future__ import annotations

import argparse
import logging
import re
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.common import machine
from jobspec.benchmarks import registry
from jobspec.records.evaluation import AskedQuestion
from worker.grading.graders import GRADERS
from worker.grading.math_grader import MathGrader

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
AIME_FILE = "aime_answers.jsonl"
OURS, MATH_VERIFY, LM_EVAL = "ours", "math_verify", "lm-eval's AIME task"
_ANSWERS = 31_000
_HOSTILE = ("9^{9^{9^9}}", "(x+1)^{99999999}", "10^{10^{10}}", "\\frac{1}{" * 200)


class AimeCase(msgspec.Struct, frozen=True):
    """A response and the integer that it gives; None if it gives none."""

    text: str
    reads: str | None
    note: str = ""


class MathCase(msgspec.Struct, frozen=True):
    """A response to a question, and whether it is right."""

    gold: str
    text: str
    right: bool


class Outcome(msgspec.Struct, frozen=True):
    """Whether a case should be accepted, and whether it was."""

    right: bool
    accepted: bool


def load_aime(path: Path = DATA / AIME_FILE) -> list[AimeCase]:
    return [msgspec.json.decode(line, type=AimeCase) for line in path.read_bytes().splitlines()]


def load_math(path: Path = DATA / "math_answers.jsonl") -> list[MathCase]:
    return [msgspec.json.decode(line, type=MathCase) for line in path.read_bytes().splitlines()]


def aime_outcomes(cases: Sequence[AimeCase], math: MathGrader) -> dict[str, list[Outcome]]:
    """By reader. A case without an answer is accepted if any number in it is judged right."""
    readers: dict[str, Callable[[AimeCase], bool]] = {
        MATH_VERIFY: lambda case: any(_verified(n, case.text) for n in _candidates(case)),
        LM_EVAL: lambda case: any(_lm_eval(n, case.text) for n in _candidates(case)),
    }
    found = {
        name: [Outcome(case.reads is not None, accepts(case)) for case in cases]
        for name, accepts in readers.items()
    }
    read = read_aime([case.text for case in cases], math)
    ours = [
        Outcome(case.reads is not None, answer == case.reads if case.reads else answer is not None)
        for case, answer in zip(cases, read, strict=True)
    ]
    return {OURS: ours, **found}


def read_aime(texts: Sequence[str], math: MathGrader) -> list[str | None]:
    """What the grader of AIME reads in responses."""
    benchmark = registry.get("aime24")
    assert benchmark is not None
    question = AskedQuestion(id="", answer="")
    (judged,) = GRADERS[benchmark.grader](benchmark, [question], [texts], math)
    return [judgement.answer for judgement in judged]


def math_outcomes(cases: Sequence[MathCase], math: MathGrader) -> dict[str, list[Outcome]]:
    """By reader."""
    judged = math.grade([(f"\\boxed{{{case.gold}}}", case.text) for case in cases])
    return {
        OURS: [
            Outcome(case.right, judgement.right)
            for case, judgement in zip(cases, judged, strict=True)
        ],
        MATH_VERIFY: [Outcome(case.right, _verified(case.gold, case.text)) for case in cases],
    }


def _candidates(case: AimeCase) -> list[str]:
    """The answer, or all numbers that may be read as one where there is none."""
    if case.reads is not None:
        return [case.reads]
    numbers = [*re.findall(r"[0-9]+", case.text), "".join(re.findall(r"[0-9]", case.text))]
    return list(dict.fromkeys(n for n in numbers if n and len(n) < 10))


def _verified(gold: str, text: str) -> bool:
    from math_verify import verify

    return bool(verify(_parsed(f"\\boxed{{{gold}}}"), _parsed(text)))


@lru_cache(maxsize=256)
def _parsed(text: str) -> list[Any]:
    from math_verify import parse

    return parse(text)


def _lm_eval(gold: str, text: str) -> bool:
    from lm_eval.tasks.aime.utils import process_results

    return bool(process_results({"answer": gold}, [text])["exact_match"])


HEAD = "| answers | reader | found | missed | wrongly accepted |\n| --- | --- | --- | --- | --- |"


def table_rows(name: str, outcomes: Mapping[str, Sequence[Outcome]]) -> list[str]:
    """Found and missed right answers and accepted wrong ones, a row of Markdown for each reader."""
    rows: list[str] = []
    for reader, found in outcomes.items():
        right = [each for each in found if each.right]
        wrong = [each for each in found if not each.right]
        label = f"{name}: {len(right)} right, {len(wrong)} wrong" if reader == OURS else ""
        hits = sum(each.accepted for each in right)
        accepted = sum(each.accepted for each in wrong)
        rows.append(f"| {label} | {reader} | {hits} | {len(right) - hits} | {accepted} |")
    return rows


def print_tables(extra: Path | None) -> None:
    print(HEAD)
    with MathGrader() as math:
        for path in (DATA / AIME_FILE, *([extra] if extra else [])):
            name = "AIME" if path.parent == DATA else path.name
            print("\n".join(table_rows(name, aime_outcomes(load_aime(path), math))))
        print("\n".join(table_rows("MATH", math_outcomes(load_math(), math))))


def print_speed() -> None:
    """Grade responses with the answers of the MATH set and new wrong ones, and then hostile ones.

    All responses differ. Every tenth has a wrong fraction that no other response has.
    """
    cases = load_math()
    padding = "Let us think about $x^2 + 1$ and \\(y\\). " * 60
    pairs = [
        (f"\\boxed{{{case.gold}}}", f"{padding}{i}\n\n{case.text}")
        for i in range(-(-_ANSWERS // len(cases)))
        for case in cases
    ][:_ANSWERS]
    for i in range(0, _ANSWERS, 10):
        pairs[i] = (pairs[i][0], f"{padding}{i}\n\n$\\boxed{{\\frac{{{i + 1}}}{{9973}}}}$")
    hostile = [("\\boxed{7}", f"\\boxed{{{each}}}") for each in _HOSTILE]
    print(machine("math-verify", "latex2sympy2_extended"))
    for name, wanted in (("responses", pairs), ("hostile responses", hostile)):
        started, cpu_s = time.monotonic(), _cpu_s()
        with MathGrader(processes=2) as math:
            math.grade(wanted)
        seconds, cpu_s = time.monotonic() - started, _cpu_s() - cpu_s
        print(f"{len(wanted):,} {name}: {seconds:.0f} s, {cpu_s:.0f} s of CPU time")


def _cpu_s() -> float:
    """CPU time of this process and of those that it has ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers", description=__doc__)
    parser.add_argument("--speed", action="store_true", help="measure the speed of grading")
    parser.add_argument("--aime", type=Path, metavar="FILE", help="one more set of AIME cases")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if chosen.speed:
        print_speed()
    else:
        print_tables(chosen.aime)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
