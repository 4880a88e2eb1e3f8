"""Printing: data on stdout, messages on stderr, tables that fit the terminal."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from jobspec.errors import JobspecError

SCHEMA = 1
_PIPE_WIDTH = 10_000  # tables in a pipe are not cut


@dataclass(frozen=True)
class Cell:
    """A text with colour and style, in click's names."""

    text: str
    fg: str | None = None
    bold: bool = False
    dim: bool = False

    def styled(self, width: int, column: Column) -> str:
        text = shorten(self.text, width) if column.least is None else cut(self.text, width)
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
    column with a `least` width is cut to that width instead.
    """

    title: str
    rank: int = 9
    right: bool = False
    least: int | None = None


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
        sizes = self._fit(width)
        drawn = [self._line([Cell(each.title.upper(), dim=True) for each in self.columns], sizes)]
        for cells, notes in self.rows:
            drawn.append(self._line(cells, sizes))
            drawn += [line for note in notes for line in _note_lines(note, width)]
        return drawn

    def left_out(self, width: int | None = None) -> list[str]:
        """The titles of the columns that have content and no room."""
        sizes = self._fit(terminal_width() if width is None else width)
        full = self._fit(_PIPE_WIDTH)
        return [self.columns[i].title for i in full if i not in sizes]

    def _line(self, cells: Sequence[Cell], sizes: dict[int, int]) -> str:
        parts = [cells[i].styled(size, self.columns[i]) for i, size in sizes.items()]
        return "  ".join(parts).rstrip()

    def _fit(self, width: int) -> dict[int, int]:
        """The width of each column; columns left out, or without content, are missing."""
        natural = [
            max((len(cells[i].text) for cells, _ in self.rows), default=0)
            for i in range(len(self.columns))
        ]
        sizes = {i: max(size, len(self.columns[i].title)) for i, size in enumerate(natural) if size}
        for i in sorted(sizes, key=lambda i: (self.columns[i].rank, -i)):
            excess, least = _width(sizes) - width, self.columns[i].least
            if excess <= 0 or self.columns[i].rank == 9:
                break
            if least is None:
                del sizes[i]
            else:
                sizes[i] = min(sizes[i], max(least, sizes[i] - excess))
        excess = _width(sizes) - width
        if excess > 0 and sizes:
            widest = max(sizes, key=lambda i: sizes[i])
            sizes[widest] = max(12, sizes[widest] - excess)
        return sizes


def _width(sizes: dict[int, int]) -> int:
    return sum(sizes.values()) + 2 * (len(sizes) - 1)


def _note_lines(note: Cell, width: int) -> list[str]:
    import textwrap

    wrapped = textwrap.wrap(note.text, max(20, min(width, 120) - 4)) or [""]
    lines = [f"  {'  ' if n else '└ '}{line}" for n, line in enumerate(wrapped)]
    return [note.paint(line) for line in lines]


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


def terminal_width() -> int:
    """$COLUMNS, or the terminal's width; unlimited if stdout is a pipe."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _PIPE_WIDTH
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
    click.secho(text, err=True, fg=fg)


def warn(text: str) -> None:
    say(f"warning: {text}", fg="yellow")


def complain(errors: Sequence[JobspecError], *, as_json: bool) -> None:
    """Print errors and hints to stderr, and with `as_json` also as JSON to stdout."""
    for error in errors:
        click.echo(click.style("error: ", fg="red", bold=True) + str(error), err=True)
        if error.hint:
            click.echo(click.style("hint: ", fg="cyan") + error.hint, err=True)
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
