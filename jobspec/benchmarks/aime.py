"""AIME 2024 and 2025, and users' own benchmarks of the same kind: integers from 0 to 999.

The questions are © Mathematical Association of America. A benchmark of your own is a file
`aime_<something>.jsonl` in the benchmark directory, with the fields `id`, `problem` and `answer`.
"""

from __future__ import annotations

import re

import msgspec

from jobspec.benchmarks.benchmark import (
    Benchmark,
    HubDataset,
    Question,
    QuestionRow,
    StockProtocol,
    plain_question,
)
from jobspec.benchmarks.boxed import boxed

_ANSWER_PHRASE = re.compile(
    r"(?:final\s+answer|answer)\s*(?:\*\*|__)?\s*(?:is|are|=|:)(?:\s*(?:\*\*|__))?\s*:?",
    re.IGNORECASE,
)
_SPACING = re.compile(
    r"\\[,;:!> ]|\\q?quad\b|\\(?:thin|med|thick)?space\b|~|&nbsp;|[\s\u00a0\u2009]"
)
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathbf|mathrm|mathit|mathsf|boldsymbol|bm|mbox"
    r"|hbox|operatorname|displaystyle|underline|fbox|boxed)\b\s*"
)
_UNIT = re.compile(
    r"(?:\\%|%|\\circ|\^\\circ|\^{\\circ}|°|\\degree|degrees?|units?|minutes?|hours?|days?|ways?"
    r"|points?|square|cubic|inche?s?|feet|cm|km|m|meters?|miles?|cents?|dollars?|pairs?|triples?"
    r"|tuples?|integers?|people|solutions?|sequences?|residents?|\.)+$",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"0*[0-9]{1,3}")
_LEADING_NUMBER = re.compile(r"[0-9]+")


def integer_answer(text: str) -> str | None:
    """The integer from 0 to 999 a text gives as its answer, without leading zeros.

    The last box decides, complete or not; without any box, the last final-answer phrase does.
    """
    if "\\boxed" in text or "\\fbox" in text:
        content = boxed(text)
        return None if content is None else _integer(content)
    phrases = list(_ANSWER_PHRASE.finditer(text))
    return _integer_after(text[phrases[-1].end() :]) if phrases else None


def _integer(latex: str) -> str | None:
    r"""An integer written alone: `070`, `m+n = 70`, `\textbf{70}`, `70^\circ`, `\$70`."""
    inner = boxed(latex)
    if inner is not None:
        return _integer(inner)
    text = re.split(r"=|\\approx|\\equiv", latex)[-1]
    text = _WRAPPER.sub("", text)
    text = _SPACING.sub("", text)
    text = text.replace("\\$", "").replace("$", "").replace("*", "")
    text = text.replace("\\(", "").replace("\\)", "").replace("\\[", "").replace("\\]", "")
    text = text.replace("^{\\circ}", "").replace("{", "").replace("}", "")
    text = _UNIT.sub("", text)
    text = re.sub(r"\.0*$", "", text)
    return str(int(text)) if text.isascii() and _NUMBER.fullmatch(text) else None


def _integer_after(rest: str) -> str | None:
    """The integer a final-answer phrase ends in: the first thing it names, up to the line's end."""
    lines = rest.lstrip(" \t\n*:$").splitlines()
    line = lines[0] if lines else ""
    whole = _integer(re.split(r"[.,;](?:\s|$)", line)[0])
    if whole is not None:
        return whole
    line = re.split(r"=", line)[-1].lstrip(" $*\\(")
    number = _LEADING_NUMBER.match(line)
    if number is None or re.match(r"\s*[/^.,][0-9{]|\s*[+*/^-]|\s*or\b", line[number.end() :]):
        return None
    return _integer(number.group(0))


def _question(row: QuestionRow) -> Question:
    question = plain_question(row)
    answer = question.answer.strip()
    is_number = answer.isascii() and answer.isdigit() and len(answer) <= 9
    if not is_number or int(answer) > 999:
        raise row.error(
            f"the answer `{question.answer[:60]}` is not an integer from 0 to 999",
            hint="the answers of benchmarks named aime… are integers from 0 to 999",
        )
    return msgspec.structs.replace(question, answer=str(int(answer)))


_AIME = Benchmark(
    name="aime*",
    title="your own, like AIME",
    url="",
    licence="yours",
    files=(),
    stock=StockProtocol(
        prompt="Question: {problem}\nAnswer:",
        stops=("Question:", "</s>", "<|im_end|>", "<|eot_id|>"),
    ),
    extract_answer=integer_answer,
    parse_question=_question,
)

BENCHMARKS = (
    msgspec.structs.replace(
        _AIME,
        name="aime24",
        title="AIME 2024",
        aliases=("aime2024", "aime-2024", "aime_2024"),
        files=("aime24.jsonl",),
        url="https://huggingface.co/datasets/Maxwell-Jia/AIME_2024",
        licence="MIT",
        dataset=HubDataset(
            path="Maxwell-Jia/AIME_2024",
            split="train",
            columns={"id": "ID", "problem": "Problem", "answer": "Answer", "solution": "Solution"},
        ),
        question_count=30,
    ),
    msgspec.structs.replace(
        _AIME,
        name="aime25",
        title="AIME 2025",
        aliases=("aime2025", "aime-2025", "aime_2025"),
        files=("aime25.jsonl",),
        url="https://huggingface.co/datasets/math-ai/aime25",
        licence="Apache-2.0",
        dataset=HubDataset(
            path="math-ai/aime25",
            split="test",
            columns={"id": "id", "problem": "problem", "answer": "answer"},
        ),
        question_count=30,
    ),
    _AIME,
)
