"""Decides whether a row contains a question of a benchmark. `QuestionIndex` states the rule.

It is the overlap of 8-grams that Tülu 3 and Open-R1 use, on letters and digits instead of words, so
that spaces, case, punctuation and LaTeX's formatting make no difference.

Source: Lambert et al. 2024, arXiv:2411.15124, section 3.2 (8-grams, half of the question); Brown et
al. 2020, arXiv:2005.14165, appendix C (13-grams, without those that occur often).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from worker.rows.row import ChatRow

RUN = 32  # letters and digits in common: about eight words
SHARE = 0.75  # of a question
_BLOCK = RUN // 2
_MOST_QUESTIONS = 2  # runs that more questions of a benchmark share are set phrases
_FEWEST_WORDS = 6

_FIGURE = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL | re.IGNORECASE)
_COMMAND = re.compile(r"\\(?:(?:begin|end)\s*\{[^{}]*\}|[a-zA-Z]+)")
_OTHER = re.compile(r"[\W_]+")
_LOWER = bytes(range(256)).lower()
_ASCII_OTHER = bytes(byte for byte in range(128) if not chr(byte).isalnum())
# For short questions, where an operator or a function is half of the text.
_FORMATTING = re.compile(
    r"\\(?:left|right|q?quad|(?:display|text)style|(?:text|math|operator)\w+|text|[bB]igg?[lrm]?"
    r"|limits|nolimits)(?![a-zA-Z])"
)
_VARIANT = re.compile(r"\\[dt](?=frac|binom)")
_SYMBOLS = str.maketrans(
    {"−": "-", "–": "-", "×": " times ", "·": " cdot ", "÷": " div ", "√": " sqrt ", "°": " circ "}
    | {"π": " pi ", "≤": " leq ", "≥": " geq ", "≠": " neq ", "_": " "}
)
_TOKENS = re.compile(r"[^\W\d_]+|\d+|[-+*/=<>|!]").findall
_GROUPED = re.compile(r"(?<=\d)(?:\{,\}|,|\\,)(?=\d{3}(?!\d))")
_OPERATORS = frozenset("-+*/=<>|")


@dataclass(frozen=True, slots=True)
class _Question:
    """A question of at least `RUN` letters and digits.

    Attributes:
        text: its letters and digits.
        starts: where the runs begin that are its own, no set phrases.
        size: how many of its letters and digits these runs cover.
        blocks: how many blocks of a row must occur in it before it is compared.
    """

    text: str
    starts: tuple[int, ...]
    size: int
    blocks: int

    def is_in(self, text: str) -> bool:
        return self.text in text or (self.size > 0 and self._covered(text) >= SHARE * self.size)

    def _covered(self, text: str) -> int:
        covered = bytearray(len(self.text))
        for start in self.starts:
            if self.text[start : start + RUN] in text:
                covered[start : start + RUN] = b"\1" * RUN
        return sum(covered)


@dataclass
class QuestionIndex:
    """The questions of a benchmark, to search rows for them.

    Compared are letters and digits, in lower case and in Unicode's NFKC form. LaTeX's commands and
    figures in [asy] are left out. A row contains a question if the whole question occurs in it, or
    if runs of `RUN` cover at least `SHARE` of the question. Runs that more than two questions share
    ("Express your answer as a common fraction") are not counted.

    A question of fewer than `RUN` letters and digits must occur in a message that is not the
    assistant's, with the same words, numbers, functions and operators. If it has no number and
    fewer than six words, it is not looked for.
    """

    _long: dict[int, _Question] = field(default_factory=dict)
    _blocks: dict[str, list[int]] = field(default_factory=dict)
    _short: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    judged: int = 0

    @classmethod
    def of(cls, questions: Iterable[str]) -> QuestionIndex:
        index = cls()
        asked = list(questions)
        texts = [letters_and_digits(question) for question in asked]
        shared = Counter(run for text in texts for run in {*_runs(text, RUN)})
        for number, (question, text) in enumerate(zip(asked, texts, strict=True)):
            if len(text) >= RUN:
                index._add_long(number, text, shared)
            else:
                index._add_short(number, _tokens(question))
        return index

    def find(self, row: ChatRow, text: str | None = None) -> set[int]:
        """The indices of the questions that a row contains.

        `text` is what is compared of it (`compared_text`), if that is known already.
        """
        text = compared_text(row) if text is None else text
        counts: Counter[int] = Counter()
        blocks = {text[at : at + _BLOCK] for at in range(0, len(text), _BLOCK)}
        for block in self._blocks.keys() & blocks:
            counts.update(self._blocks[block])
        likely = (number for number, count in counts.items() if count >= self._long[number].blocks)
        found = {number for number in likely if self._long[number].is_in(text)}
        return found | self._find_short(row) if self._short else found

    def _add_long(self, number: int, text: str, shared: Mapping[str, int]) -> None:
        starts = [at for at, run in enumerate(_runs(text, RUN)) if shared[run] <= _MOST_QUESTIONS]
        covered = {at for start in starts for at in range(start, start + RUN)}
        blocks = {*_runs(text, _BLOCK)}
        # A run of `length` in common holds at least (length − 30) / 16 of a row's blocks, and a run
        # is 32 or longer, so there is a block for every 46 letters and digits in common.
        least = math.ceil(SHARE * min(len(covered), len(blocks) + _BLOCK - 1) / (3 * _BLOCK - 2))
        self._long[number] = _Question(text, tuple(starts), len(covered), max(1, least))
        for block in blocks:
            self._blocks.setdefault(block, []).append(number)
        self.judged += 1

    def _add_short(self, number: int, tokens: list[str]) -> None:
        words = [token for token in tokens if token[0].isalnum()]
        if len(words) < _FEWEST_WORDS and not any(word[0].isdigit() for word in words):
            return
        if not words:
            return
        self._short.setdefault(max(words, key=len), []).append((" ".join(tokens), number))
        self.judged += 1

    def _find_short(self, row: ChatRow) -> set[int]:
        found: set[int] = set()
        for message in row.messages:
            if message["role"] in ("assistant", "tool"):
                continue
            tokens = _tokens("\n".join(row.texts([message])))
            text = f" {' '.join(tokens)} "
            for word in self._short.keys() & set(tokens):
                found.update(n for asked, n in self._short[word] if _stands_alone(asked, text))
        return found


def compared_text(row: ChatRow) -> str:
    """The letters and digits of all messages of a row."""
    return letters_and_digits("\n".join(row.texts()))


def letters_and_digits(text: str) -> str:
    """What of a text is compared: see `QuestionIndex`."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    if "[asy]" in text:
        text = _FIGURE.sub(" ", text)
    if "\\" in text:
        text = _COMMAND.sub(" ", text)
    # Bytes are translated several times faster than characters.
    text = (
        text.encode(errors="surrogatepass")
        .translate(_LOWER, _ASCII_OTHER)
        .decode(errors="surrogatepass")
    )
    return text if text.isascii() else _OTHER.sub("", text).casefold()


def _tokens(text: str) -> list[str]:
    """Words, numbers and operators of a text, without formatting."""
    text = unicodedata.normalize("NFKC", text.translate(_SYMBOLS))
    text = _VARIANT.sub(r"\\", _FORMATTING.sub(" ", _GROUPED.sub("", text)))
    return _TOKENS(text.casefold())


def _stands_alone(asked: str, text: str) -> bool:
    """Whether a text has these tokens, and no operator continues them to a longer formula."""
    at = text.find(f" {asked} ")
    while at >= 0:
        before, after = text[:at].rsplit(" ", 1)[-1], text[at + len(asked) + 2 :].split(" ", 1)[0]
        if before not in _OPERATORS and after not in _OPERATORS:
            return True
        at = text.find(f" {asked} ", at + 1)
    return False


def _runs(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(len(text) - size + 1)]
