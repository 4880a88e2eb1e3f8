"""Reads and grades the samples of a bundle again: `python -m worker.evaluation.regrade ATTEMPT`.

Changes no file. Benchmarks whose grading runs generated programs or a stranger's regular
expressions are left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobspec.benchmarks import registry
from jobspec.benchmarks.own import CHOICE, EXACT, MATH, NUMBER
from jobspec.records import evaluation
from jobspec.records.answers import Regraded, RegradedBenchmark
from jobspec.records.evaluation import QuestionScore
from jobspec.storage.layout import AttemptPaths
from worker.answer import answer
from worker.evaluation import scoring
from worker.grading.math_grader import MathGrader
from worker.grading.math_reader import READER
from worker.program import run_program

_HARMLESS = frozenset((CHOICE, EXACT, MATH, NUMBER))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker.evaluation.regrade")
    parser.add_argument("attempt", type=Path)
    attempt = AttemptPaths(parser.parse_args().attempt.absolute())
    sys.exit(answer(lambda: regrade(attempt)))


def regrade(attempt: AttemptPaths) -> Regraded:
    """Grade every benchmark of an attempt again, and compare with its scores."""
    found = evaluation.benchmark_dirs(attempt.eval)
    with MathGrader() as math:
        return Regraded(benchmarks={name: _grade(path, math) for name, path in found.items()})


def _grade(directory: Path, math: MathGrader) -> RegradedBenchmark:
    plan, questions, drawn = evaluation.read_generations(directory)
    benchmark = registry.get(plan.benchmark)
    if benchmark is None:
        return RegradedBenchmark(left_out="only lm-eval grades its own tasks")
    if plan.protocol.answer_reader not in (READER, None) and benchmark.grader != "exact":
        reader = plan.protocol.answer_reader
        return RegradedBenchmark(left_out=f"graded by reader {reader}; this is reader {READER}")
    readers = {each.reading.reader for each in questions if each.reading is not None}
    if not readers <= _HARMLESS:
        return RegradedBenchmark(left_out="its grading would run what the bundle holds")
    asked = [(question, drawn[question.id]) for question in questions]
    graded = scoring.score(benchmark, plan, asked, math)
    stated = {score.id: score for score in evaluation.read_scores(directory)}
    differing = [name for score in graded for name in _differing(score, stated.get(score.id))]
    number = sum(len(rows) for rows in drawn.values())
    return RegradedBenchmark(samples=number, differing=tuple(differing))


def _differing(graded: QuestionScore, stated: QuestionScore | None) -> list[str]:
    samples = {} if stated is None else {each.sample: each for each in stated.samples}
    return [
        f"{graded.id}/{each.sample}" for each in graded.samples if samples.get(each.sample) != each
    ]


if __name__ == "__main__":
    run_program(main)
