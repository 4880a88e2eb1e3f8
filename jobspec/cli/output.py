"""Printing: data on stdout, messages on stderr, tables that fit the terminal."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import click

from jobspec.errors import JobspecError

SCHEMA = 1
_PIPE_WIDTH = 10_000  # tables in a pipe are not cut


@dataclass(frozen=True)
class Cell:
    """A text with colour and style, in click's names; `brief` replaces it where room is short."""

    text: str
    fg: str | None = None
    bold: bool = False
    dim: bool = False
    brief: str | None = None

    def shown(self, *, briefly: bool) -> str:
        return self.brief if briefly and self.brief is not None else self.text

    def styled(self, width: int, column: Column, *, briefly: bool = False) -> str:
        whole = self.shown(briefly=briefly)
        text = shorten(whole, width) if column.least is None else cut(whole, width)
        pad = " " * (width - len(text))
        return pad + self.paint(text) if column.right else self.paint(text) + pad

    def paint(self, text: str) -> str:
        """`text` in this cell's colours."""
        if not (self.fg or self.bold or self.dim):
            return text
        return click.style(text, fg=self.fg, bold=self.bold or None, dim=self.dim or None)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    If a table is too wide, columns of the lowest `rank` are left out first; those of rank 9 stay. A
    column with a `least` width is cut to that width instead, and left out at its `drop_rank`. At
    its `brief_rank`, a column shows its cells' `brief` texts.
    """

    title: str
    rank: int = 9
    right: bool = False
    least: int | None = None
    brief_rank: int | None = None
    drop_rank: int | None = None


@dataclass
class Table:
    """Columns, rows of cells, and notes below rows."""

    columns: Sequence[Column]
    rows: list[tuple[Sequence[Cell], list[Cell]]] = field(default_factory=list[Any])

    def add(self, *cells: Cell | str, notes: Sequence[Cell] = ()) -> None:
        made = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
        self.rows.append((made, list(notes)))

    def lines(self, width: int | None = None) -> list[str]:
        """The table as lines of at most `width` characters, by default the terminal's width."""
        width = terminal_width() if width is None else width
        sizes, brief = self._fit(width)
        titles = [Cell(each.title.upper(), dim=True) for each in self.columns]
        drawn = [self._line(titles, sizes, brief)]
        for cells, notes in self.rows:
            drawn.append(self._line(cells, sizes, brief))
            drawn += [line for note in notes for line in _note_lines(note, width)]
        return drawn

    def left_out(self, width: int | None = None) -> list[str]:
        """The titles of the columns that have content and no room."""
        sizes, _ = self._fit(terminal_width() if width is None else width)
        full, _ = self._fit(_PIPE_WIDTH)
        return [self.columns[i].title for i in full if i not in sizes]

    def shortened(self, width: int | None = None) -> list[str]:
        """The titles of the columns that show their brief texts."""
        sizes, brief = self._fit(terminal_width() if width is None else width)
        return [self.columns[i].title for i in sizes if i in brief]

    def _line(self, cells: Sequence[Cell], sizes: dict[int, int], brief: set[int]) -> str:
        parts = [
            cells[i].styled(size, self.columns[i], briefly=i in brief) for i, size in sizes.items()
        ]
        return "  ".join(parts).rstrip()

    def _size(self, index: int, *, briefly: bool = False) -> int:
        """The width that a column needs; 0 without content."""
        texts = (cells[index].shown(briefly=briefly) for cells, _ in self.rows)
        size = max(map(len, texts), default=0)
        return max(size, len(self.columns[index].title)) if size else 0

    def _steps(self) -> list[tuple[int, str]]:
        """The columns to shrink until the table fits, in this order, and how."""
        steps: list[tuple[int, int, str]] = []
        for i, column in enumerate(self.columns):
            changes = (("shrink", column.rank), ("brief", column.brief_rank))
            for change, rank in (*changes, ("drop", column.drop_rank)):
                if rank is not None and rank < 9:
                    steps.append((rank, -i, change))
        return [(-negative, change) for _, negative, change in sorted(steps)]

    def _fit(self, width: int) -> tuple[dict[int, int], set[int]]:
        """The width of each column, without those left out or empty; and which are brief."""
        natural = {i: self._size(i) for i in range(len(self.columns))}
        sizes = {i: size for i, size in natural.items() if size}
        brief: set[int] = set()
        for i, change in self._steps():
            excess, least = _width(sizes) - width, self.columns[i].least
            if excess <= 0:
                break
            if i not in sizes:
                continue
            if change == "brief":
                brief.add(i)
                sizes[i] = self._size(i, briefly=True)
            elif change == "drop" or least is None:
                del sizes[i]
            else:
                sizes[i] = min(sizes[i], max(least, sizes[i] - excess))
        excess = _width(sizes) - width
        if excess > 0 and sizes:
            widest = max(sizes, key=lambda i: sizes[i])
            sizes[widest] = max(12, sizes[widest] - excess)
        return sizes, brief


def _width(sizes: dict[int, int]) -> int:
    return sum(sizes.values()) + 2 * (len(sizes) - 1)


def _note_lines(note: Cell, width: int) -> list[str]:
    wrapped = wrap(note.text, max(20, min(width, 120) - 4))
    lines = [f"  {'  ' if n else '└ '}{line}" for n, line in enumerate(wrapped)]
    return [note.paint(line) for line in lines]


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters; no word is broken, so a long path can be copied."""
    import textwrap

    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return lines or [""]


def without_digests(ids: Sequence[str]) -> list[str]:
    """Ids of jobs or workers without the digest at their end, where the rest distinguishes them.

    Where it does not, as many digits of the digest are kept as are needed, at least four.
    """
    names = [each.rpartition("-")[0] or each for each in ids]
    kept = dict(zip(ids, names, strict=True))
    for digits in (4, 8, 40):
        shared = Counter(kept.values())
        for each, name in zip(ids, names, strict=True):
            if shared[kept[each]] > 1:
                kept[each] = each[: len(name) + 1 + digits]
    return [kept[each] for each in ids]


def cut(text: str, width: int) -> str:
    """Cut at the end, after a complete word, or after a complete item of a list."""
    if len(text) <= width:
        return text
    kept = text[: width - 1]
    between = ", " if ", " in kept else " "
    whole = kept.rpartition(between)[0] or text[: width - 2]
    return f"{whole} …"[:width]


def shorten(text: str, width: int) -> str:
    """Cut in the middle: the last ten digits of a job's id distinguish it from others."""
    if len(text) <= width:
        return text
    tail = max(0, min(10, width - 2))
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def terminal_width(stream: TextIO | None = None) -> int:
    """$COLUMNS, or the terminal's width; unlimited if the stream, by default stdout, is a pipe."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size((stream or sys.stdout).fileno()).columns or _PIPE_WIDTH
    except (OSError, ValueError):
        return _PIPE_WIDTH


def interactive() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def emit(data: dict[str, Any]) -> None:
    """Print a command's data as one JSON object, with the version of its fields."""
    emit_struct({"schema": SCHEMA, **data})


def emit_struct(data: Any) -> None:
    """Print a struct that carries its own `schema`."""
    import msgspec

    try:
        text = msgspec.json.format(msgspec.json.encode(data), indent=2).decode()
    except UnicodeEncodeError:  # a path that is not UTF-8: its bytes become escapes
        import json

        text = json.dumps(msgspec.to_builtins(data), indent=2)
    click.echo(text)


def say(text: str, *, fg: str | None = None) -> None:
    """Print a message to stderr; stdout is only for data."""
    click.secho(_wrapped(text), err=True, fg=fg)


def _wrapped(text: str) -> str:
    """Where stderr is a terminal, the text with line breaks between words only."""
    if not sys.stderr.isatty():
        return text
    width = terminal_width(sys.stderr)
    return "\n".join(
        "\n  ".join(wrap(line, width - 2)) if len(line) > width else line
        for line in text.split("\n")
    )


def warn(text: str) -> None:
    say(f"warning: {text}", fg="yellow")


def complain(errors: Sequence[JobspecError], *, as_json: bool) -> None:
    """Print errors and hints to stderr, and with `as_json` also as JSON to stdout."""
    errors = [each for error in errors for each in (error, *error.others)]
    for error in errors:
        for title, text, fg in (("error: ", str(error), "red"), ("hint: ", error.hint, "cyan")):
            if text:
                shown = _wrapped(title + text).removeprefix(title)
                click.echo(click.style(title, fg=fg, bold=fg == "red" or None) + shown, err=True)
    if as_json:
        emit({"errors": [error_json(error) for error in errors]})


def error_json(error: JobspecError) -> dict[str, str | None]:
    return {
        "message": error.message,
        "hint": error.hint,
        "file": error.file,
        "place": error.place,
    }


def duration(seconds: float | None) -> str:
    """Format seconds like `42s`, `17m`, `2h 05m` or `3d 04h`; empty if unknown."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, days = whole // 60, whole // 86400
    if whole < 3600:
        return f"{minutes}m {whole % 60:02d}s" if minutes < 10 else f"{minutes}m"
    if days:
        return f"{days}d {whole % 86400 // 3600:02d}h"
    return f"{minutes // 60}h {minutes % 60:02d}m"


def bar(fraction: float, width: int = 10) -> str:
    filled = min(width, max(0, int(fraction * width + 1e-9)))
    return "█" * filled + "░" * (width - filled)


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
