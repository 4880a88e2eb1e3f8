"""Several processes, on one host or on many, try one directory together by files in it alone.

python -m jobspec.doctor.session PLACE GROUP NAME PATIENCE_S      one that only joins
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

from jobspec.doctor.measurements import Found, joined
from jobspec.doctor.participant import Seat
from jobspec.doctor.visibility import Guest, Leader
from jobspec.storage import fs

ACROSS = "across"
START_S = 10.0  # a Python on a network filesystem may take that long to start


def meet(
    seat: Seat, count: int, *, within_s: float, convene: bool = True, alone: bool = False
) -> Found | None:
    """Wait for `count` members, this one among them, and try the place with them.

    Args:
        seat: this process's.
        count: how many.
        within_s: how long to wait for them.
        convene: False leaves it to another to call the meeting.
        alone: only this member leads; else each does in turn.

    Returns:
        What everybody found; None if they did not come.
    """
    called = seat.gather(count, within_s, convene=convene, alone=alone)
    if called is None:
        return None
    found = Found(members=[seat.names[key] for key in called.members])
    for key in called.turns:
        others = [member for member in called.members if member != seat.key]
        part = Leader(seat, others).lead() if key == seat.key else Guest(seat, key).follow()
        found = joined(found, part)
    return found


def meet_here(place: Path, processes: int, patience_s: float) -> Found | None:
    """Try a place with processes of this host."""
    group = secrets.token_hex(4)
    with (
        Seat(place, group, "0", patience_s) as seat,
        _helpers(place, group, processes - 1, patience_s),
    ):
        return meet(seat, processes, within_s=START_S, alone=True)


def meet_across(
    place: Path, name: str, count: int, patience_s: float, *, within_s: float = 60.0
) -> Found | None:
    """Try a place with others who run this on other hosts, once they have come."""
    with Seat(place, ACROSS, name, patience_s) as seat:
        return meet(seat, count, within_s=within_s)


@contextlib.contextmanager
def _helpers(place: Path, group: str, count: int, patience_s: float) -> Generator[None]:
    """Processes that join; ended at the end, whatever they do, and their directories removed."""
    command = [sys.executable, "-m", "jobspec.doctor.participant_main", str(place), group]
    started = [
        subprocess.Popen(
            [*command, str(number + 1), str(patience_s)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        for number in range(count)
    ]
    try:
        yield
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
    finally:
        for process in started:
            process.kill()
            process.wait()
        fs.sweep(place)
