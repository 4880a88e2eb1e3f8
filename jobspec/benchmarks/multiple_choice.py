"""What multiple-choice benchmarks share: choices in a seeded order, and the letter of an answer.

`gpqa_diamond.py` shows how a benchmark uses it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from jobspec.benchmarks.benchmark import CHOICE_LETTERS, Question
from jobspec.benchmarks.boxed import boxed

# Source: https://github.com/openai/simple-evals, common.py (MIT).
PROMPT = (
    "Answer the following multiple choice question. The last line of your response should be of "
    "the following format: 'Answer: $LETTER' (without quotes) where LETTER is one of {letters}. "
    "Think step by step before answering.\n\n{{problem}}\n\n{{choices}}"
)
# What may stand between `Answer:` and the letter, or around a letter in a box.
_MARKS = r"[\s*_$({\[]*(?:\\(?:text|textbf|mathrm|mathbf|boxed)\s*[{(\s]*)?"


def prompt(count: int) -> str:
    """The user turn of a benchmark with `count` choices a question."""
    return PROMPT.format(letters=CHOICE_LETTERS[:count])


def seeded_question(
    benchmark: str, id: str, problem: str, *, correct: str, incorrect: Sequence[str]
) -> Question:
    """A question whose choices are in an order of its own; the answer is the correct one's letter.

    The order depends on the benchmark's name, the question's id and the texts of the choices
    alone: it is the same on every machine, and does not depend on the order of the choices in the
    file.
    """
    choices = sorted(
        (correct, *incorrect),
        key=lambda text: hashlib.sha256(f"{benchmark}\0{id}\0{text}".encode()).digest(),
    )
    return Question(
        id=id,
        problem=problem,
        answer=CHOICE_LETTERS[choices.index(correct)],
        choices=tuple(choices),
    )


def letter_answer(text: str, *, count: int) -> str | None:
    """The letter that a response gives as its answer to a question with `count` choices.

    The last `Answer: X` decides; without one, the last box does. A small letter counts at the end
    of a line only: `the answer is a matter of taste` names none.
    """
    capital, small = f"A-{CHOICE_LETTERS[count - 1]}", f"a-{CHOICE_LETTERS[count - 1].lower()}"
    letter = rf"(?:([{capital}])(?![A-Za-z0-9'’])|([{small}])(?=[\W_]*$))"
    phrase = rf"\b(?i:answer)\b[*_]*\s*(?:is|:|=)[*_]*\s*:?{_MARKS}{letter}"
    phrases = list(re.finditer(phrase, text, re.MULTILINE))
    if phrases:
        return (phrases[-1].group(1) or phrases[-1].group(2)).upper()
    content = boxed(text)
    found = re.match(rf"{_MARKS}{letter}", content) if content is not None else None
    return (found.group(1) or found.group(2)).upper() if found else None
