"""Several processes, on one host or on many, measure a directory together, by files in it alone."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from jobspec.doctor import rename_race, visibility
from jobspec.doctor.measurements import ClockOffset, JointMeasurement, RaceResult
from jobspec.doctor.participant import Participant
from jobspec.doctor.rename_race import Attempts, RaceStart
from jobspec.doctor.visibility import Report
from jobspec.storage import fs

ACROSS = "across"
START_S = 10.0  # a Python on a network filesystem may take that long to start


def measure_here(parent: Path, processes: int, patience_s: float) -> JointMeasurement | None:
    """Measure a directory with several processes of this host; None if they did not start."""
    me = Participant(parent, secrets.token_hex(4), "0", patience_s)
    with _helpers(me, processes):
        return participate(me, processes, START_S, race_count=1)


def measure_across(
    parent: Path, name: str, count: int, patience_s: float, *, within_s: float = 60.0
) -> JointMeasurement | None:
    """Measure a directory with others that run this on other hosts; None if some did not come."""
    return participate(
        Participant(parent, ACROSS, name, patience_s), count, within_s, race_count=count
    )


def participate(
    participant: Participant, count: int, within_s: float, race_count: int
) -> JointMeasurement | None:
    """Wait for the others and measure with them.

    Args:
        participant: this process.
        count: members there will be, this one included.
        within_s: how long to wait for them.
        race_count: members whose files are raced for.

    Returns:
        What all of them measured; None if some did not come.
    """
    with participant as me:
        members = me.meet(count, within_s)
        if members is None:
            return None
        at = members.index(me.key)
        me.send("report", visibility.observe(me, [*members[at + 1 :], *members[:at]]))
        received = {key: me.receive(key, "report", Report) for key in members}
        reports = {key: report for key, report in received.items() if report is not None}
        clocks = visibility.clocks(reports, me.names)
        races = [
            _race(me, key, list(reports), clocks) for key in members[:race_count] if key in reports
        ]
        fs.touch(me.dir / "done")
        for key in reports:  # others may still read what this process sent
            me.wait_for(lambda key=key: _is_done(me, key) or None, me.patience_s)
        return JointMeasurement(
            members=[me.names[key] for key in members],
            silent=[me.names[key] for key in members if key not in reports],
            lags=list(visibility.lags(reports, me.names, clocks)),
            clocks=list(clocks.values()),
            races=[race for race in races if race is not None],
            noticed={me.names[key]: report.noticed for key, report in reports.items()},
        )


def _race(
    me: Participant,
    maker: str,
    racers: Sequence[str],
    clocks: Mapping[tuple[str, str], ClockOffset],
) -> RaceResult | None:
    """Race for one member's files; None if a member did not answer."""
    prizes, ahead_s = me.dirs[maker] / "race", 0.0
    if maker == me.key:
        files = rename_race.make_prizes(prizes, within_s=me.patience_s / 2)
        trips = [clocks[me.key, key].round_trip_s for key in racers if (me.key, key) in clocks]
        wait_s = min(2 * max(trips, default=0.0) + 0.05, me.patience_s / 2)
        start = RaceStart(files=files, at=me.clock() + wait_s)
        me.send("start", start)
    else:
        start = me.receive(maker, "start", RaceStart)
        if start is None or (maker, me.key) not in clocks:
            return None
        ahead_s = clocks[maker, me.key].ahead_s
    mine = RaceStart(files=start.files, at=start.at + ahead_s)
    me.send(f"attempts.{maker}", rename_race.run(prizes, me.dir / f"won.{maker}", mine, me.clock))
    attempts = [me.receive(key, f"attempts.{maker}", Attempts) for key in racers]
    known = [each for each in attempts if each is not None]
    complete = len(known) == len(racers) > 1
    return rename_race.count(known, start.files, me.names[maker]) if complete else None


def _is_done(me: Participant, key: str) -> bool:
    return not fs.exists(me.dirs[key]) or "done" in me.listing(key)


@contextlib.contextmanager
def _helpers(me: Participant, processes: int) -> Generator[None]:
    """Further processes of this host. They are ended on leaving, and their directories removed."""
    command = [sys.executable, "-m", "jobspec.doctor.session", str(me.parent), me.group]
    command += [str(me.patience_s), str(processes)]
    started = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.DEVNULL)
        for number in range(1, processes)
    ]
    try:
        yield
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(me.patience_s)
    finally:
        for process in started:
            process.kill()
            process.wait()
        fs.sweep(me.parent)


def main(arguments: Sequence[str]) -> None:
    """Take part as one of the further processes of this host."""
    parent, group, patience_s, processes, name = arguments
    me = Participant(Path(parent), group, name, float(patience_s))
    participate(me, int(processes), START_S, race_count=1)


if __name__ == "__main__":
    main(sys.argv[1:])
