"""The turns of a meeting: one acts and times, the others watch and answer.

The leader makes `ask.<label>.<what>` in its own directory; the others answer in theirs, by
`say.<label>.<word>.<µs>`, whose last part is the moment on their clock. A label, `<key of the
leader>-<number>`, is used once. Clocks are compared by the round trips, so
that lags across hosts are known to half of the shortest one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from jobspec.doctor import rename_race
from jobspec.doctor.measurements import Clocks, Found, Lag, Race
from jobspec.doctor.participant import Seat, read
from jobspec.storage import fs, mounts

CREATED, RENAMED, REPLACED = "created", "renamed away", "replaced"
KINDS = (CREATED, RENAMED, REPLACED)
_NOTICE, _RACE = "notice", "race"
_PINGS, _ROUNDS = 8, 5


@dataclass
class Leader:
    """Acts, and times how late the others see it."""

    seat: Seat
    others: list[str]
    asked: int = 0
    silent: set[str] = field(default_factory=set[str])
    clocks: dict[str, Clocks] = field(default_factory=dict[str, Clocks])

    def lead(self) -> Found:
        for _ in range(_PINGS):
            self._ping()
        lags = [lag for kind in KINDS for lag in self._lags(kind)]
        noticed = self._noticed()
        contest = self._race()
        names = self.seat.names
        found = Found(
            silent=[names[key] for key in sorted(self.silent)],
            lags=lags,
            clocks=list(self.clocks.values()),
            races=[contest] if contest is not None else [],
            noticed={names[key]: seen for key, seen in noticed.items()},
        )
        fs.publish(self.seat.dir / "found.json", msgspec.json.encode(found))
        self._ask("end")
        return found

    @property
    def label(self) -> str:
        """Names the question that was asked last."""
        return f"{self.seat.key}-{self.asked}"

    @property
    def _present(self) -> list[str]:
        return [key for key in self.others if key not in self.silent]

    def _ask(self, what: str) -> dict[str, tuple[float, float]]:
        """Ask everybody, and wait until they are ready; who isn't in time is asked no more."""
        self.asked += 1
        fs.touch(self.seat.dir / f"ask.{self.label}.{what}")
        ready = self._answers("ready")
        self.silent |= {key for key in self._present if key not in ready}
        return ready

    def _answers(self, *words: str) -> dict[str, tuple[float, float]]:
        """When each said one of `words`, on their clock, and when it was seen, on this one."""
        said: dict[str, tuple[float, float]] = {}
        wanted = self._present

        def look() -> bool | None:
            for key in [key for key in wanted if key not in said]:
                moment = _said(self.seat.look(key), self.label, words)
                if moment is not None:
                    said[key] = moment, self.seat.clock()
            return True if len(said) == len(wanted) else None

        self.seat.wait_for(look)
        return said

    def _ping(self) -> None:
        before = self.seat.clock()
        for key, (moment, seen) in self._ask("ping").items():
            trip = seen - before
            best = self.clocks.get(key)
            longest = trip if best is None else max(trip, best.round_trip_s)
            if best is None or trip / 2 < best.error_s:
                best = Clocks(
                    actor=self.seat.name,
                    watcher=self.seat.names[key],
                    ahead_s=moment - (before + trip / 2),
                    error_s=trip / 2,
                    round_trip_s=longest,
                )
            self.clocks[key] = msgspec.structs.replace(best, round_trip_s=longest)

    def _lags(self, kind: str) -> list[Lag]:
        late: dict[str, list[float]] = {key: [] for key in self._present}
        missed = dict.fromkeys(late, 0)
        for _ in range(_ROUNDS):
            acted = self._act(kind)
            saw = self._answers("saw")
            for key in self._present:
                if key in saw:
                    late[key].append(max(0.0, saw[key][0] - acted - self.clocks[key].ahead_s))
                else:
                    missed[key] += 1
            if any(missed.values()):
                break  # one wait in vain is enough
        return [
            Lag(
                kind=kind,
                actor=self.seat.name,
                watcher=self.seat.names[key],
                median_s=sorted(lags)[len(lags) // 2] if lags else None,
                longest_s=max(lags, default=None),
                missed=missed[key],
            )
            for key, lags in late.items()
        ]

    def _act(self, kind: str) -> float:
        """Prepare, ask, act. Returns when it was done, on this clock."""
        thing = self.seat.dir / f"thing.{self.seat.key}-{self.asked + 1}"
        if kind == CREATED:
            self._ask(kind)
            fs.touch(thing)
        elif kind == RENAMED:
            fs.touch(thing)
            self._ask(kind)
            fs.move_once(thing, thing.with_name(f"gone.{self.label}"))
        else:
            fs.publish(thing, b"old")
            self._ask(kind)
            fs.publish(thing, b"new")
        return self.seat.clock()

    def _noticed(self) -> dict[str, bool]:
        self._ask(_NOTICE)
        fs.touch(self.seat.dir / f"thing.{self.label}")
        self._answers("saw", "missed")
        return {
            key: _said(self.seat.look(key), self.label, ("saw",)) is not None
            for key in self._present
        }

    def _race(self) -> Race | None:
        """Everybody renames the same files in the same order, beginning at the same moment."""
        prizes = self.seat.dir / "race"
        files = rename_race.make_prizes(prizes, within_s=self.seat.patience_s / 2)
        self._ask(_RACE)
        racers = self._present
        if not racers:
            return None
        trip_s = max(self.clocks[key].round_trip_s for key in racers)
        start = self.seat.clock() + min(2 * trip_s + 0.05, self.seat.patience_s / 2)
        for key in racers:
            theirs = round((start + self.clocks[key].ahead_s) * 1e6)
            fs.touch(self.seat.dir / f"go.{key}.{files}.{theirs}")
        tallies = [
            rename_race.run(
                prizes, self.seat.dir / f"won.{self.label}", files, self.seat.clock, start
            )
        ]
        for key in racers:
            path = self.seat.seats[key] / f"tally.{self.label}.json"
            tally = self.seat.wait_for(lambda path=path: read(path, rename_race.Tally))
            if tally is None:
                self.silent.add(key)
                return None
            tallies.append(tally)
        return rename_race.counted(tallies, files, self.seat.name)


@dataclass
class Guest:
    """Answers a leader until it ends its turn."""

    seat: Seat
    leader: str
    asked: int = 0

    def follow(self) -> Found:
        while True:
            self.asked += 1
            # The leader may be waiting for others, who may be silent.
            what = self.seat.wait_for(self._question, 4 * self.seat.patience_s)
            if what is None:
                return Found(silent=[self.seat.names[self.leader]])
            if what == "end":
                path = self.seat.seats[self.leader] / "found.json"
                found = self.seat.wait_for(lambda path=path: read(path, Found))
                self._say("ready")
                return found or Found(silent=[self.seat.names[self.leader]])
            self._obey(what)

    @property
    def label(self) -> str:
        """Names the question that is waited for, or obeyed."""
        return f"{self.leader}-{self.asked}"

    def _question(self) -> str | None:
        return self._after(f"ask.{self.label}.")

    def _after(self, begin: str) -> str | None:
        """The rest of the leader's name that begins so."""
        names = self.seat.look(self.leader)
        return next((n.removeprefix(begin) for n in names if n.startswith(begin)), None)

    def _say(self, word: str) -> None:
        fs.touch(self.seat.dir / f"say.{self.label}.{word}.{round(self.seat.clock() * 1e6)}")

    def _obey(self, what: str) -> None:
        if what == _NOTICE:
            return self._notice()
        if what == _RACE:
            return self._compete()
        thing = self.seat.seats[self.leader] / f"thing.{self.label}"

        def is_there() -> bool:
            return thing.name in self.seat.look(self.leader)

        sights: dict[str, tuple[Callable[[], bool], Callable[[], bool]]] = {
            CREATED: (lambda: True, is_there),
            RENAMED: (is_there, lambda: not is_there()),
            REPLACED: (lambda: _bytes(thing) == b"old", lambda: _bytes(thing) == b"new"),
        }
        before, after = sights.get(what, (lambda: True, lambda: True))
        if self.seat.wait_for(lambda: before() or None):
            self._say("ready")
        if what in sights and self.seat.wait_for(lambda: after() or None):
            self._say("saw")
        return None

    def _compete(self) -> None:
        self._say("ready")
        begin = f"go.{self.seat.key}."
        go = self.seat.wait_for(lambda: self._after(begin))
        if go is None:
            return
        files, start = (int(part) for part in go.split("."))
        prizes = self.seat.seats[self.leader] / "race"
        bag = self.seat.dir / f"won.{self.label}"
        tally = rename_race.run(prizes, bag, files, self.seat.clock, start / 1e6)
        fs.publish(self.seat.dir / f"tally.{self.label}.json", msgspec.json.encode(tally))

    def _notice(self) -> None:
        """Wait for inotify alone: no listing, which could make the change known by itself."""
        try:
            news = iter(mounts.changes(self.seat.seats[self.leader]))
            next(news, None)  # from now on it watches
        except (OSError, RuntimeError):  # no watches left, or none on this filesystem
            self._say("ready")
            return self._say("missed")
        self._say("ready")
        deadline = time.monotonic() + min(1.0, self.seat.patience_s / 2)
        while time.monotonic() < deadline:
            if next(news, None):
                return self._say("saw")
        return self._say("missed")


def _said(names: Iterable[str], label: str, words: Sequence[str]) -> float | None:
    for name in names:
        parts = name.split(".")
        if parts[:2] == ["say", label] and parts[2] in words:
            return int(parts[3]) / 1e6
    return None


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
