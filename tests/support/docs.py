"""What README and docs/ say, taken apart: blocks, the commands in them, and what those printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.paths import REPOSITORY

PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
PROMPT = "$ "
_WORD_WITH_DIGIT = re.compile(r"[^\s|]*\d[^\s|]*")
_UNIT = re.compile(r"(?<=#) (?:[KMGT]?i?B|s|ms|min|h)\b")


@dataclass(frozen=True)
class Block:
    """A fenced block: the line of its fence (from 1), its language, its lines."""

    page: Path
    line: int
    language: str
    body: list[str]


@dataclass(frozen=True)
class Command:
    """One command line, continuations joined, and what the page says it printed."""

    page: Path
    line: int
    text: str
    output: list[str] = field(default_factory=list[str])

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    opened: Block | None = None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if not line.startswith("```"):
            if opened is not None:
                opened.body.append(line)
        elif opened is None:
            opened = Block(page, number, line[3:], [])
        else:
            yield opened
            opened = None
    assert opened is None, f"{page}: a block is not closed"


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[Command]:
    """Every command of a page, in its order: all lines of `sh`, prompted ones of `console`."""
    return [command for block in blocks(page) for command in _of(block)]


def _of(block: Block) -> Iterator[Command]:
    prompted = block.language == "console"
    if not prompted and block.language != "sh":
        return
    rows = list(enumerate(block.body, block.line + 1))
    while rows:
        number, text = rows.pop(0)
        while text.endswith("\\") and rows:
            text = text[:-1].rstrip() + " " + rows.pop(0)[1].strip()
        output: list[str] = []
        while prompted and rows and not rows[0][1].startswith(PROMPT):
            output.append(rows.pop(0)[1])
        text = text.removeprefix(PROMPT)
        if text.strip() and not text.startswith("#"):
            yield Command(block.page, number, text, output)


def shape(line: str) -> str:
    """A printed line without what differs between two runs: figures, ids, times, sizes, widths."""
    masked = _WORD_WITH_DIGIT.sub("#", line)
    masked = re.sub(r"\s+", " ", masked).strip()
    return re.sub(r"#(?: #)+", "#", _UNIT.sub("", masked))
