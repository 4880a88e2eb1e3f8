"""Checks whether a response follows IFEval's instructions, with the checker in lm-eval.

It runs in the child processes of `MathGrader`, which limit its time and memory.

Source: Zhou et al. 2023, arXiv:2311.07911; lm_eval.tasks.ifeval (Apache 2.0).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from jobspec.benchmarks.benchmark import Benchmark
from jobspec.benchmarks.ifeval import READER
from jobspec.records.evaluation import AskedQuestion
from worker.grading.math_reader import Judgement
from worker.lm_eval_tasks import nltk_data


def load() -> None:
    """Import the checker, which takes seconds, and make it draw no random numbers."""
    import langdetect
    from lm_eval.tasks.ifeval import utils

    del utils
    langdetect.DetectorFactory.seed = 0


def followed(instructions: str, text: str) -> list[bool]:
    """For each instruction, whether the text follows it to the letter ("strict")."""
    from lm_eval.tasks.ifeval import utils

    asked: dict[str, Any] = msgspec.json.decode(instructions)
    random.seed(0)
    example = utils.InputExample(0, asked["ids"], asked["prompt"], asked["kwargs"])
    return utils.test_instruction_following_strict(example, text).follow_instruction_list


def judgement(names: Sequence[str], found: Sequence[bool] | None) -> Judgement:
    """Right where every instruction is followed. The answer names those that are not.

    Args:
        names: of the instructions.
        found: for each whether it is followed; None where that could not be checked in time.
    """
    if found is None:
        return Judgement(False, None, READER)
    broken = [name for name, kept in zip(names, found, strict=True) if not kept]
    answer = "breaks " + ", ".join(broken) if broken else "follows its instructions"
    return Judgement(not broken, answer, READER)


def names_of(question: AskedQuestion) -> list[str]:
    """The names of a question's instructions."""
    return msgspec.json.decode(instructions_of(question))["ids"]


def instructions_of(question: AskedQuestion) -> str:
    """What the checker is to look for, as JSON."""
    assert question.reading is not None and question.reading.instructions is not None
    return question.reading.instructions


def check_benchmark(benchmark: Benchmark) -> None:
    """Raise BenchmarkError if this benchmark's answers need a checker that can't run here."""
    if benchmark.checks_instructions:
        nltk_data.require_packages(benchmark.name)
        nltk_data.require(benchmark.name)
