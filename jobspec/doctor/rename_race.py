"""The rename race: processes that all try to rename the same files, in the same order."""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from jobspec.doctor.measurements import RaceResult
from jobspec.storage import fs

_MOST_FILES = 500
# All wait for each other again and again, so that no process runs far ahead.
_HEAT_FILES, _HEAT_S = 50, 0.02


class RaceStart(msgspec.Struct, frozen=True, kw_only=True):
    """How many files there are, and when the race starts, on the clock of their maker."""

    files: int
    at: float


class Attempts(msgspec.Struct, kw_only=True):
    """What one process got of a race."""

    won: list[int] = []
    lost_replies: int = 0
    errors: dict[str, int] = {}


def make_prizes(prizes: Path, *, within_s: float) -> int:
    """Make the files of a race, as many as can be made in time; returns how many."""
    fs.make_dir(prizes)
    deadline = time.monotonic() + within_s
    for number in range(_MOST_FILES):
        if time.monotonic() >= deadline:
            return number
        fs.touch(prizes / str(number))
    return _MOST_FILES


def run(prizes: Path, bag: Path, start: RaceStart, clock: Callable[[], float]) -> Attempts:
    """From `start.at` on, try to rename every prize into `bag`."""
    fs.make_dir(bag)
    attempts = Attempts()
    for number in range(start.files):
        if number % _HEAT_FILES == 0:
            while clock() < start.at + number / _HEAT_FILES * _HEAT_S:
                time.sleep(0)
        target = bag / str(number)
        try:
            (prizes / str(number)).rename(target)
            attempts.won.append(number)
        except OSError as error:
            if target.exists():  # RACE: the reply to a successful rename was lost
                attempts.won.append(number)
                attempts.lost_replies += 1
            else:
                name = errno.errorcode.get(error.errno or 0, str(error.errno))
                attempts.errors[name] = attempts.errors.get(name, 0) + 1
    return attempts


def count(all_attempts: Sequence[Attempts], files: int, actor: str) -> RaceResult:
    """The outcome of a race from what each process got."""
    winners = Counter(number for attempts in all_attempts for number in attempts.won)
    errors = sum((Counter(attempts.errors) for attempts in all_attempts), Counter[str]())
    return RaceResult(
        actor=actor,
        files=files,
        won=[len(attempts.won) for attempts in all_attempts],
        doubled=sum(winner_count > 1 for winner_count in winners.values()),
        unclaimed=files - len(winners),
        lost_replies=sum(attempts.lost_replies for attempts in all_attempts),
        losers=dict(errors),
    )
