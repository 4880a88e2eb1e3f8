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
_MARKS = r"[\s*_$({\[]*(?:\\(?:text|textbf|mathrm|mathbf|boxed)\s*[{(\s]*)?"
_PHRASE = re.compile(
    rf"\banswer\b[*_]*\s*(?:is|:|=)[*_]*\s*:?{_MARKS}([A-J])(?![A-Za-z0-9'’])", re.IGNORECASE
)
_LETTER = re.compile(rf"{_MARKS}([A-J])[\s)}}\]$*_.:]*(?:\Z|[).:]\s*\S)")


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


def letter_answer(text: str) -> str | None:
    """The letter that a response gives as its answer.

    The last `Answer: X` decides; without one, the last box does.
    """
    phrases = list(_PHRASE.finditer(text))
    if phrases:
        return phrases[-1].group(1).upper()
    content = boxed(text)
    found = _LETTER.match(content) if content is not None else None
    return found.group(1) if found else None
