"""No retired vocabulary in names, docstrings, comments, messages and documentation.

The project once had a vocabulary of its own. The field has a term for each of these things, which
CONTRIBUTING's style section and docs/glossary.md use. A finding names the term to write instead.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.commands import REPOSITORY

TREES = ("jobspec", "worker", "benchmarks", "tests", "docs", "slurm")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "mkdocs.yml", "Containerfile")
HERE = Path(__file__).resolve()
# The table of retired phrases in CONTRIBUTING, and lines that quote a name of a file or field.
_QUOTED = re.compile(r"`[^`]*`|^\| instead of(?:.*\n\|)+.*$", re.MULTILINE)

# Parts of names, without regard to where: what to write instead.
RETIRED_PARTS = {
    "sitter": "rank launcher",
    "shelf": "dataset cache",
    "shelves": "dataset cache",
    "seal": "checkpoint manifest, complete",
    "seals": "checkpoint manifest, complete",
    "sealed": "complete",
    "aside": "hold, quarantine or drain",
    "take": "acquire, carry over, claim",
    "takes": "acquires, carries over, claims",
    "taken": "acquired, carried over, claimed",
    "pick": "choose, candidates",
    "picker": "candidates",
    "picks": "candidates",
    "past": "attempt history",
    "spent": "usage",
    "course": "progress",
    "feed": "sync, dataset",
    "feeds": "sync, dataset",
    "tally": "totals, counts",
    "tallies": "totals, counts",
    "verdict": "outcome, judgement",
    "verdicts": "outcomes, judgements",
    "way": "the thing itself: a mode, a method, a path",
    "ways": "modes, methods, paths",
    "beat": "heartbeat",
    "beats": "heartbeats",
    "beating": "sends heartbeats",
    "dealt": "split, assigned",
    "deal": "split, assign",
    "told": "output, reported",
    "heart": "heartbeat",
    "word": "message, reason",
    "words": "message, reason",
}
# Names with an honest use of such a part: in other libraries, or in ordinary English.
ALLOWED_NAMES = {"JobNotFound"}

# Phrases of prose, and of names of tests, which are sentences: what to write instead.
RETIRED_PHRASES = {
    r"\bsitters?\b": "rank launcher",
    r"\bshel(?:f|ves)\b": "dataset cache",
    r"\b(?:un)?seal(?:s|ed|ing)?\b": "complete checkpoint, manifest",
    r"\btall(?:y|ies)\b": "totals, counts",
    r"\bverdicts?\b": "outcome, judgement",
    r"\bhearts?\b": "heartbeat",
    r"\bbeats?\b|\bbeating\b|\bbeaten\b": "heartbeat, sends heartbeats",
    r"\bdealt\b": "split, assigned",
    r"\b(?:takes?|leaves?|left|leaving|without) (?:no |a |any )?words?\b": "is not writable, "
    "does not report",
    r"\b(?:by|at|keeps?|of) (?:your|its|their|his|a persons?|a person's|one's) words?\b": "as the "
    "user asked, behaves as promised",
    r"\bin (?:its|their|his|other) own words\b": "as a message",
    r"\bas (?:it|they) comes?\b": "by default",
    r"\bwho(?:ever)? (?:asks|is told|loses|lost|comes)\b": "a worker that",
    r"(?-i:\b(?:Trained|Wanted|Asked|Meant|Judged) (?:is|are|was|were)\b)": "subject, verb, object",
    r"\bso many\b": "a number of, as many, the maximum",
    r"\bset(?:s|ting)? aside\b": "quarantine, hold out",
    r"\btaken (?:for|up|to pieces)\b": "counted as, retried, parsed",
    r"\btold (?:so|of|from)\b": "reported, distinguished",
    r"\bpass(?:es|ed|ing) over\b": "skip",
    r"\bfor good\b": "permanently",
    r"\bthe whole way\b": "end to end",
    r"\bshall\b": "must, will",
    r"\bnobody's\b": "ignored",
    r"\bwhat (?:it|they|a \w+|the \w+) (?:leaves?|left)\b(?! out)": "the files that … writes",
    r"\btakes nothing\b": "is not writable",
    r"\bresume states?\b": "checkpoint",
    r"\ba way out\b": "a hint",
    r"\banew\b": "again",
    r"\b(?:whoever|somebody(?! else))\b": "a worker that, a user",
    r"\bstands? still\b": "does not change",
    r"\bin vain\b": "without success",
}


class Finding(NamedTuple):
    """Where a retired word is, and what to write instead."""

    place: str
    text: str
    instead: str


class Passage(NamedTuple):
    """A piece of prose and the line on which it begins."""

    line: int
    text: str


def parts(name: str) -> list[str]:
    """The words of a name in any case."""
    return [part.lower() for part in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)]


def names(source: str) -> Iterator[Passage]:
    """The classes and functions of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield Passage(node.lineno, node.name)


def prose_of_code(source: str) -> Iterator[Passage]:
    """Comments and strings of several words; tests' names, which are sentences."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        middle = getattr(tokenize, "FSTRING_MIDDLE", None)  # Python 3.12
        if token.type == tokenize.COMMENT or (
            token.type in (tokenize.STRING, middle) and " " in token.string.strip("'\" ")
        ):
            yield Passage(token.start[0], token.string)
    for line, name in names(source):
        if name.startswith("test_"):
            yield Passage(line, name.replace("_", " "))


def retired_names(source: str, module: str, place: str) -> Iterator[Finding]:
    """Modules, classes and functions named with a retired word."""
    for line, name in [Passage(1, module), *names(source)]:
        if (name.startswith("test_") and name != module) or name in ALLOWED_NAMES:
            continue
        for part in parts(name):
            if part in RETIRED_PARTS:
                yield Finding(f"{place}:{line}", name, RETIRED_PARTS[part])


def retired_phrases(passages: Iterator[Passage], place: str) -> Iterator[Finding]:
    """Prose with a retired phrase; what stands in backticks is a name and does not count."""
    for first, text in passages:
        bare = _QUOTED.sub(lambda quoted: re.sub(r"[^\n]", "`", quoted[0]), text)
        for phrase, instead in RETIRED_PHRASES.items():
            pattern = phrase.replace(" ", r"[\s#]+")
            for match in re.finditer(pattern, bare, re.IGNORECASE):
                line = first + bare.count("\n", 0, match.start())
                yield Finding(f"{place}:{line}", " ".join(match[0].split()), instead)


@cache
def files() -> list[Path]:
    """Everything with prose in it, but this list of what is retired."""
    found = [REPOSITORY / name for name in PAGES]
    for tree in TREES:
        for suffix in ("py", "md", "sbatch", "html", "js", "css"):
            found += (REPOSITORY / tree).rglob(f"*.{suffix}")
    return sorted(path for path in found if path.exists() and path != HERE)


def findings(path: Path) -> list[Finding]:
    place, text = str(path.relative_to(REPOSITORY)), path.read_text()
    if path.suffix != ".py":
        return list(retired_phrases(iter([Passage(1, text)]), place))
    return [
        *retired_names(text, path.stem, place),
        *retired_phrases(prose_of_code(text), place),
    ]


@pytest.mark.parametrize("tree", [*TREES, "pages"])
def test_the_retired_vocabulary_is_not_used(tree: str) -> None:
    inside = [
        path
        for path in files()
        if (path.relative_to(REPOSITORY).parts[0] if path.parent != REPOSITORY else "pages") == tree
    ]
    assert inside
    wrong = [finding for path in inside for finding in findings(path)]
    assert not wrong, "\n" + "\n".join(f"{at}: `{text}`: write {new}" for at, text, new in wrong)


@pytest.mark.parametrize(
    "source",
    [
        "class Sitter: ...",
        "class RankSitter: ...",
        "def take(): ...",
        "async def _pick_job(): ...",
        "class HTTPVerdict: ...",
        "class A:\n    def next_beat_in_s(self): ...",
    ],
)
def test_a_retired_name_is_found(source: str) -> None:
    assert [finding.place.partition(":")[0] for finding in retired_names(source, "a", "a.py")]


@pytest.mark.parametrize("module", ["sitter", "shelf", "take", "past_attempts", "test_takes"])
def test_a_retired_module_name_is_found(module: str) -> None:
    assert list(retired_names("", module, "a.py"))


@pytest.mark.parametrize(
    "source",
    [
        '"""Trained is the final assistant turn alone."""',
        "# The worker beats its\n# heart by renaming.",
        'raise ValueError("the root takes no word")',
        'print(f"{count}: who asks for another has lost one")',
        '"""Neither: as it comes, nobody\n    is told of it."""',
        "x = 1  # so many workers as there are GPUs",
        "def test_a_taken_port_is_told_from_others(): ...",
        "def test_a_sealed_state_is_kept(): ...",
    ],
)
def test_a_retired_phrase_in_code_is_found(source: str) -> None:
    assert list(retired_phrases(prose_of_code(source), "a.py"))


def test_a_phrase_over_two_lines_is_found_on_its_first() -> None:
    page = Passage(1, "# Title\n\nThe archive is set\naside and kept.")
    assert [found[:2] for found in retired_phrases(iter([page]), "a.md")] == [
        ("a.md:3", "set aside")
    ]


@pytest.mark.parametrize(
    "source",
    [
        '"""A heartbeat. `taken.json` and the field `verdict` keep their names."""',
        'path = "taken.json"',
        "# It takes a while, by the way; of course it found no words.",
        "def test_a_save_takes_a_second(): ...",
    ],
)
def test_ordinary_english_is_allowed(source: str) -> None:
    assert not list(retired_phrases(prose_of_code(source), "a.py"))
    assert not list(retired_names(source, "a", "a.py"))
