"""jobspec.cli.output: tables that fit, and how things are spelled."""

from __future__ import annotations

import click
import pytest

from jobspec.cli.output import Cell, Column, Table, bar, cut, duration, plural, shorten


def table(*columns: Column) -> Table:
    made = Table(columns)
    made.add("a-long-name-0123456789", Cell("failed", "red"), "one two three", "7")
    return made


FOUR = (Column("job"), Column("state"), Column("said", 5, least=8), Column("n", 3, right=True))


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (100, "a-long-name-0123456789  failed  one two three  7"),
        (48, "a-long-name-0123456789  failed  one two three  7"),
        (47, "a-long-name-0123456789  failed  one two three"),
        (44, "a-long-name-0123456789  failed  one two …"),
        (40, "a-long-name-0123456789  failed  one …"),
        (30, "a…0123456789  failed  one …"),
    ],
)
def test_columns_of_low_rank_are_left_out_first(width: int, line: str) -> None:
    drawn = table(*FOUR).lines(width)[1]
    assert click.unstyle(drawn) == line


def test_a_name_is_cut_in_the_middle_as_a_last_resort() -> None:
    drawn = Table([Column("job"), Column("state")])
    drawn.add("a-very-long-name-0123456789", "failed")
    assert drawn.lines(26)[1] == "a-very-…0123456789  failed"


def test_a_column_without_content_is_left_out() -> None:
    drawn = Table([Column("job"), Column("empty"), Column("state")])
    drawn.add("a", "", "b")
    assert drawn.lines(80) == ["\x1b[2mJOB\x1b[0m  \x1b[2mSTATE\x1b[0m", "a    b"]


def test_notes_are_wrapped_below_their_row() -> None:
    drawn = Table([Column("job")])
    drawn.add("a", notes=[Cell("one two three four five six seven")])
    assert drawn.lines(24)[2:] == ["  └ one two three four", "    five six seven"]


@pytest.mark.parametrize(
    ("seconds", "spelled"),
    [
        (None, ""), (float("inf"), ""), (0.2, "0s"), (59.4, "59s"), (60, "1m 00s"), (125, "2m 05s"),
        (600, "10m"), (3599, "59m"), (3600, "1h 00m"), (7500, "2h 05m"), (266400, "3d 02h"),
        (-5, "0s"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, spelled: str) -> None:
    assert duration(seconds) == spelled


@pytest.mark.parametrize(("share", "drawn"), [(0, "░░░░"), (0.5, "██░░"), (1, "████"), (2, "████")])
def test_bars(share: float, drawn: str) -> None:
    assert bar(share, 4) == drawn


def test_shortening() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 7) == "a…ghijk"
    assert cut("loss 0.4123, 5,210 tok/s", 16) == "loss 0.4123 …"
    assert len(cut("x" * 50, 12)) == 12
    assert plural(1, "job") == "1 job" and plural(1200, "job") == "1,200 jobs"
