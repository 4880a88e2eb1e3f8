"""A process's directory at a meeting, and how those who meet find each other.

Everybody has a directory of their own beside the others', writes only there and is known by a key.
Who meets is found by mutual sight: `seen.<key>` in each other's directory, which nobody dead ever
makes. One of them, that of the lowest key, then calls the meeting.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from jobspec.storage import fs, tempfiles

T = TypeVar("T")
_POLL_S = 0.002
_SEAT = re.compile(r"\.tmp-.*-doctor-(?P<group>[a-z0-9]+)-(?P<key>[0-9a-f]{8})-(?P<name>.*)")


class Called(msgspec.Struct, frozen=True, kw_only=True):
    """Who meets, by key, and who leads, in order."""

    members: list[str]
    turns: list[str]


@dataclass
class Seat:
    """This process's directory at a meeting, and its view of the others'."""

    place: Path
    group: str
    name: str
    patience_s: float = 2.5
    clock: Callable[[], float] = time.time
    key: str = field(default_factory=lambda: secrets.token_hex(4))
    seats: dict[str, Path] = field(default_factory=dict[str, Path])
    names: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        self.name = re.sub(r"[^A-Za-z0-9.-]+", "-", self.name)[:40] or "host"
        self.dir = tempfiles.beside(self.place / f"doctor-{self.group}-{self.key}-{self.name}")

    def __enter__(self) -> Seat:
        fs.make_dir(self.dir, 0o755)
        return self

    def __exit__(self, *_: object) -> None:
        fs.remove_tree(self.dir)

    def look(self, member: str) -> list[str]:
        """The names in a member's directory."""
        return fs.list_names(self.seats[member])

    def wait_for(self, look: Callable[[], T | None], within_s: float | None = None) -> T | None:
        """Look until there is something to see, within `patience_s` by default."""
        deadline = time.monotonic() + (self.patience_s if within_s is None else within_s)
        while (seen := look()) is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return seen

    def gather(self, count: int, within_s: float, *, convene: bool, alone: bool) -> Called | None:
        self.seats, self.names = {self.key: self.dir}, {self.key: self.name}

        def look() -> Called | None:
            mutual = self._mutual()
            for key in mutual:
                called = read(self.seats[key] / "called.json", Called)
                if called is not None and self.key in called.members:
                    return called
            keys = sorted([self.key, *mutual])[:count]
            if len(keys) < count or not convene or (keys[0] != self.key and not alone):
                return None
            called = Called(members=keys, turns=[self.key] if alone else keys)
            fs.publish(self.dir / "called.json", msgspec.json.encode(called))
            return called

        return self.wait_for(look, within_s)

    def _mutual(self) -> list[str]:
        """Who sees us too; marks everybody that we see."""
        for name in [path.name for path in self.place.iterdir()]:
            seat = _SEAT.fullmatch(name)
            if seat is None or seat["group"] != self.group or seat["key"] in self.seats:
                continue
            self.seats[seat["key"]] = self.place / name
            self.names[seat["key"]] = seat["name"]
            fs.touch(self.dir / f"seen.{seat['key']}")
        return [key for key in self.seats if f"seen.{self.key}" in self.look(key)]


def read(path: Path, kind: type[T]) -> T | None:
    """The struct at `path`; None where it isn't to be seen yet, or not whole."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None
