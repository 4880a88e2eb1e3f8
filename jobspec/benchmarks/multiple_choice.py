"""What multiple-choice benchmarks share: choices in a seeded order, and the letter of an answer.

`gpqa_diamond.py` shows how a benchmark uses it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from jobspec.benchmarks.benchmark import CHOICE_LETTERS, Question
from jobspec.readers.final_answer import BARE, BOX, PHRASE, boxes, locate
from jobspec.readers.reading import Answer
from jobspec.readers.texts import plain_text

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
    return read_letter(text, count).value


def read_letter(text: str, count: int) -> Answer:
    """The same, with the rule and the place."""
    capital, small = f"A-{CHOICE_LETTERS[count - 1]}", f"a-{CHOICE_LETTERS[count - 1].lower()}"
    letter = rf"(?:([{capital}])(?![A-Za-z0-9'’])|([{small}])(?=[\W_]*$))"
    phrase = rf"\b(?i:answer)\b[*_]*\s*(?:is|:|=)[*_]*\s*:?{_MARKS}{letter}"
    phrases = list(re.finditer(phrase, text, re.MULTILINE))
    if phrases:
        return _letter(phrases[-1], PHRASE)
    boxed = boxes(text)
    if boxed is None or boxed.cut:
        return Answer()
    found = re.match(rf"{_MARKS}{letter}", boxed.contents[-1])
    return Answer(None, BOX, boxed.contents[-1]) if found is None else _letter(found, BOX)


def read_choice(text: str, choices: Sequence[str]) -> Answer:
    """The letter that a response gives, or that of the choice which it repeats word by word.

    A response that is a letter and nothing else is an answer too.
    """
    answer = read_letter(text, len(choices))
    bare = re.fullmatch(rf"[\s*_$({{\[]*([A-{CHOICE_LETTERS[len(choices) - 1]}])[\W_]*", text)
    if answer.value is None and bare is not None:
        return _letter(bare, BARE)
    boxed = boxes(text)
    if answer.rule == BOX and boxed is not None and len(set(boxed.contents)) > 1:
        return Answer(None, BOX, ", ".join(boxed.contents))
    if answer.value is not None:
        return answer
    place = locate(text)
    words = None if place.latex is None else plain_text(place.latex)
    same = [i for i, choice in enumerate(choices) if plain_text(choice) == words]
    if len(same) == 1:
        return Answer(CHOICE_LETTERS[same[0]], place.rule, place.latex)
    return Answer(None, answer.rule or place.rule, answer.read or place.latex)


def _letter(found: re.Match[str], rule: str) -> Answer:
    letter = next(group for group in found.groups() if group)
    return Answer(letter.upper(), rule, found.group(0).strip())
