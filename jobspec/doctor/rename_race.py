"""The rename race: processes that all try to rename the same files, in the same order."""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from jobspec.doctor.measurements import Race
from jobspec.storage import fs

MOST_FILES = 500
_HEAT_FILES, _HEAT_S = 50, 0.02  # all start together again and again, lest one runs ahead


class Tally(msgspec.Struct, kw_only=True):
    won: list[int] = []
    lost_replies: int = 0
    losers: dict[str, int] = {}


def make_prizes(prizes: Path, *, within_s: float) -> int:
    """Make the files of a race, as many as can be made in time. Returns how many."""
    fs.make_dir(prizes)
    deadline = time.monotonic() + within_s
    for number in range(MOST_FILES):
        if time.monotonic() >= deadline:
            return number
        fs.touch(prizes / str(number))
    return MOST_FILES


def run(prizes: Path, bag: Path, files: int, clock: Callable[[], float], start: float) -> Tally:
    """From the moment `start` on, try to rename every prize into one's own bag."""
    fs.make_dir(bag)
    tally = Tally()
    for number in range(files):
        if number % _HEAT_FILES == 0:
            while clock() < start + number / _HEAT_FILES * _HEAT_S:
                time.sleep(0)
        target = bag / str(number)
        try:
            (prizes / str(number)).rename(target)
            tally.won.append(number)
        except OSError as error:
            if target.exists():
                tally.won.append(number)
                tally.lost_replies += 1
            else:
                told = errno.errorcode.get(error.errno or 0, str(error.errno))
                tally.losers[told] = tally.losers.get(told, 0) + 1
    return tally


def counted(tallies: Sequence[Tally], files: int, actor: str) -> Race:
    winners = Counter(number for tally in tallies for number in tally.won)
    losers = sum((Counter(tally.losers) for tally in tallies), Counter[str]())
    return Race(
        actor=actor,
        files=files,
        won=[len(tally.won) for tally in tallies],
        doubled=sum(count > 1 for count in winners.values()),
        unclaimed=files - len(winners),
        lost_replies=sum(tally.lost_replies for tally in tallies),
        losers=dict(losers),
    )
