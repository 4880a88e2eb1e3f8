"""Several hosts, or threads of one host, measure a directory together, by files in it alone.

Each member writes only into its own directory. The first by name leads: it makes a change, the
others answer with the same change as soon as they see it, and the leader notes on its monotonic
clock how long that took: the lag in either direction is at most this round trip. Then all try to
rename the leader's files. They send it what they got, and it publishes the result for all.
"""

from __future__ import annotations

import contextlib
import errno
import re
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from jobspec.doctor.measurements import JointMeasurement, RaceResult, VisibilityLag
from jobspec.storage import fs, mounts, tempfiles

T = TypeVar("T")
_CREATED, _RENAMED, _REPLACED = _KINDS = ("created", "renamed away", "replaced")
_STEPS = [(number, kind) for number in range(5) for kind in _KINDS]
_MOST_FILES, _POLL_S, _NOTICE_S = 500, 0.002, 1.0
_MEET_S = 10.0  # how late other threads of this host may see a new directory


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a member got of the race, and whether inotify reported another's changes to it."""

    noticed: bool
    won: list[int]
    lost_replies: int
    errors: dict[str, int]


def measure_here(parent: Path, count: int, patience_s: float) -> JointMeasurement | None:
    """Measure a directory with several threads of this process; None if they do not meet.

    To the kernel, and so to the filesystem, the calls of threads are like those of processes.
    """
    group = secrets.token_hex(4)
    members = [Member(parent, group, str(number), patience_s) for number in range(count)]
    with ThreadPoolExecutor(count) as pool:
        results = [pool.submit(member.participate, count, _MEET_S) for member in members]
        return results[0].result()


@dataclass
class Member:
    """One participant, which knows itself and the others by keys: a name and random digits."""

    parent: Path
    group: str
    name: str
    patience_s: float  # how long the leader waits for an answer

    def participate(self, count: int, within_s: float) -> JointMeasurement | None:
        """Measure with `count - 1` others; None if some do not come in time."""
        self.key = f"{re.sub('[^A-Za-z0-9.-]+', '-', self.name)[:40]}-{secrets.token_hex(4)}"
        self.dir = tempfiles.beside(self.parent / f"doctor-{self.group}-{self.key}")
        self.dirs = {self.key: self.dir}
        fs.make_dir(self.dir, 0o755)
        try:
            keys = self._wait(lambda: self._meet(count), within_s)
            if self.key not in keys:
                return None
            noticed = self._is_notified(keys)
            return self._lead(keys, noticed) if self.key == keys[0] else self._follow(keys, noticed)
        finally:
            fs.remove_tree(self.dir)

    def _meet(self, count: int) -> list[str]:
        """All members, leader first, or none: two have met once each has a file for the other.

        A process that died earlier never makes one.
        """
        for path in self.parent.glob(f".tmp-*-doctor-{self.group}-*"):
            key = path.name.partition(f"-doctor-{self.group}-")[2]
            if key not in self.dirs:
                self.dirs[key] = path
                fs.touch(self.dir / f"seen.{key}")
        met = [key for key in self.dirs if f"seen.{self.key}" in self._names(key)]
        return sorted([self.key, *met])[:count] if len(met) + 1 >= count else []

    def _is_notified(self, keys: Sequence[str]) -> bool:
        """Whether inotify reports another's changes, without a listing that could reveal them."""
        noticed = False
        with contextlib.suppress(FileNotFoundError, RuntimeError):  # it died; no inotify here
            changes = iter(mounts.changes(self.dirs[next(key for key in keys if key != self.key)]))
            next(changes, None)  # it watches from now on
            fs.touch(self.dir / "watching")
            self._wait(lambda: all("watching" in self._names(key) for key in keys), self.patience_s)
            end = time.monotonic() + min(_NOTICE_S, self.patience_s / 2)
            while time.monotonic() < end:
                fs.touch(self.dir / f"notice.{time.monotonic_ns()}")
                noticed = bool(next(changes, None)) or noticed
        return noticed

    def _lead(self, keys: Sequence[str], noticed: bool) -> JointMeasurement:
        others, files, end = keys[1:], 0, time.monotonic() + self.patience_s
        fs.make_dir(self.dir / "race")
        while files < _MOST_FILES and (files == 0 or time.monotonic() < end):
            fs.touch(self.dir / "race" / str(files))
            files += 1
        lags = self._measure_lags(others)
        self._send("go", files)
        time.sleep(max(lag.median_s or 0.0 for lag in lags) / 2)  # the others see it later
        replies = {self.key: self._race(self.key, files, noticed)}

        def collect() -> bool:
            received = {key: self._receive(key, "reply", Reply) for key in others}
            replies.update({key: reply for key, reply in received.items() if reply is not None})
            return len(replies) == len(keys)

        complete = self._wait(collect, 3 * self.patience_s)
        result = JointMeasurement(
            members=list(map(_name, keys)),
            silent=[_name(key) for key in keys if key not in replies],
            lags=lags,
            races=[_count(_name(self.key), files, list(replies.values()))] if complete else [],
            noticed={_name(key): reply.noticed for key, reply in replies.items()},
        )
        self._send("result", result)
        readers = [key for key in others if key in replies]  # they remove their directories then
        self._wait(lambda: not any(map(self._names, readers)), self.patience_s)
        return result

    def _measure_lags(self, others: Sequence[str]) -> list[VisibilityLag]:
        """Time every answer to every change, until one does not come in time or all take long."""
        times = {(kind, key): list[float | None]() for kind in _KINDS for key in others}
        end = time.monotonic() + 2 * self.patience_s
        for number, kind in _STEPS:
            self._change(number, kind)
            changed, waiting = time.monotonic(), list(others)
            while waiting and time.monotonic() < changed + self.patience_s:
                for key in [key for key in waiting if self._is_visible(key, number, kind)]:
                    times[kind, key].append(time.monotonic() - changed)
                    waiting.remove(key)
                time.sleep(_POLL_S)
            for key in waiting:
                times[kind, key].append(None)
            if waiting or time.monotonic() > end:
                break
        return [_lag(kind, self.key, key, seen) for (kind, key), seen in times.items() if seen]

    def _follow(self, keys: Sequence[str], noticed: bool) -> JointMeasurement:
        leader, steps, result = keys[0], list(_STEPS), None
        limit_s = 6 * self.patience_s  # longer than the leader waits for others in between

        def answer() -> int | None:
            if steps and self._is_visible(leader, *steps[0]):
                self._change(*steps.pop(0))
            return self._receive(leader, "go", int)

        if files := self._wait(answer, limit_s):
            self._send("reply", self._race(leader, files, noticed))
            result = self._wait(lambda: self._receive(leader, "result", JointMeasurement), limit_s)
        return result or JointMeasurement(members=list(map(_name, keys)), silent=[_name(leader)])

    def _change(self, number: int, kind: str) -> None:
        old = self.dir / f"old.{number}"
        if kind == _CREATED:
            fs.touch(old)
        elif kind == _RENAMED:
            fs.move_once(old, self.dir / f"new.{number}")
        else:
            self._send("content", number)

    def _is_visible(self, key: str, number: int, kind: str) -> bool:
        if kind == _REPLACED:
            return self._receive(key, "content", int) == number
        names = self._names(key)
        old, new = f"old.{number}" in names, f"new.{number}" in names
        return old if kind == _CREATED else new and not old

    def _race(self, leader: str, files: int, noticed: bool) -> Reply:
        """Try to rename all files of the leader, in the same order as everybody."""
        won, lost_replies, errors = list[int](), 0, Counter[str]()
        fs.make_dir(self.dir / "won")
        for number in range(files):
            target = self.dir / "won" / str(number)
            try:
                (self.dirs[leader] / "race" / str(number)).rename(target)
            except OSError as error:
                if not fs.exists(target):
                    errors[errno.errorcode.get(error.errno or 0, str(error.errno))] += 1
                    continue
                lost_replies += 1  # RACE: the reply to a successful rename was lost
            won.append(number)
        return Reply(noticed=noticed, won=won, lost_replies=lost_replies, errors=errors)

    def _names(self, key: str) -> list[str]:
        return fs.list_names(self.dirs[key])

    def _send(self, name: str, message: object) -> None:
        fs.replace(self.dir / name, msgspec.json.encode(message))

    def _receive(self, key: str, name: str, kind: type[T]) -> T | None:
        # Network filesystems remember for seconds that a name was absent: list before opening.
        with contextlib.suppress(OSError, msgspec.MsgspecError):  # not visible, or only in part
            if name in self._names(key):
                return msgspec.json.decode((self.dirs[key] / name).read_bytes(), type=kind)
        return None

    def _wait(self, look: Callable[[], T], within_s: float) -> T:
        """Call `look` until it returns something or the time is over."""
        end = time.monotonic() + within_s
        while not (seen := look()) and time.monotonic() < end:
            time.sleep(_POLL_S)
        return seen


def _name(key: str) -> str:
    return key.rpartition("-")[0]


def _lag(kind: str, actor: str, watcher: str, times: Sequence[float | None]) -> VisibilityLag:
    seen = [time_s for time_s in times if time_s is not None]
    return VisibilityLag(
        kind=kind,
        actor=_name(actor),
        watcher=_name(watcher),
        median_s=statistics.median(seen) if seen else None,
        longest_s=max(seen, default=None),
        missed=len(times) - len(seen),
    )


def _count(actor: str, files: int, replies: Sequence[Reply]) -> RaceResult:
    winners = Counter(number for reply in replies for number in reply.won)
    return RaceResult(
        actor=actor,
        files=files,
        won=[len(reply.won) for reply in replies],
        doubled=sum(count > 1 for count in winners.values()),
        unclaimed=files - len(winners),
        lost_replies=sum(reply.lost_replies for reply in replies),
        losers=dict(sum((Counter(reply.errors) for reply in replies), Counter[str]())),
    )
