"""One process's directory in a joint measurement, and messages to others through files in it.

Every process writes only into its own directory and reads those of the others. Two processes have
met once each has a `seen.<key>` file for the other; a process that died earlier never makes one.
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
_DIRECTORY = re.compile(r"\.tmp-.*-doctor-(?P<group>[a-z0-9]+)-(?P<key>[0-9a-f]{8})-(?P<name>.*)")


@dataclass
class Participant:
    """This process in a joint measurement, and the others as it sees them."""

    parent: Path
    group: str
    name: str
    patience_s: float = 2.5
    clock: Callable[[], float] = time.time
    key: str = field(default_factory=lambda: secrets.token_hex(4))
    dirs: dict[str, Path] = field(default_factory=dict[str, Path])
    names: dict[str, str] = field(default_factory=dict[str, str])

    def __enter__(self) -> Participant:
        self.name = re.sub(r"[^A-Za-z0-9.-]+", "-", self.name)[:40] or "host"
        self.dir = tempfiles.beside(self.parent / f"doctor-{self.group}-{self.key}-{self.name}")
        self.dirs[self.key], self.names[self.key] = self.dir, self.name
        fs.make_dir(self.dir, 0o755)
        return self

    def __exit__(self, *_: object) -> None:
        fs.remove_tree(self.dir)

    def meet(self, count: int, within_s: float) -> list[str] | None:
        """Wait for others; returns the keys of all `count` members, None if some did not come."""

        def look() -> list[str] | None:
            for path in self.parent.iterdir():
                found = _DIRECTORY.fullmatch(path.name)
                if found and found["group"] == self.group and found["key"] not in self.dirs:
                    self.dirs[found["key"]], self.names[found["key"]] = path, found["name"]
                    fs.touch(self.dir / f"seen.{found['key']}")
            met = [key for key in self.dirs if f"seen.{self.key}" in self.listing(key)]
            return sorted([self.key, *met])[:count] if len(met) + 1 >= count else None

        return self.wait_for(look, within_s)

    def wait_for(self, look: Callable[[], T | None], within_s: float) -> T | None:
        """Call `look` until it returns something or the time is over."""
        deadline = time.monotonic() + within_s
        while (seen := look()) is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return seen

    def listing(self, key: str) -> list[str]:
        """The names in a participant's directory."""
        return fs.list_names(self.dirs[key])

    def send(self, name: str, message: msgspec.Struct) -> None:
        """Leave a message for the others."""
        fs.replace(self.dir / f"{name}.json", msgspec.json.encode(message))

    def receive(self, key: str, name: str, kind: type[T]) -> T | None:
        """Wait for another's message; None if it does not become visible in time."""

        def look() -> T | None:
            # Network filesystems remember for seconds that a name was absent: list before opening.
            if f"{name}.json" not in self.listing(key):
                return None
            try:
                data = (self.dirs[key] / f"{name}.json").read_bytes()
                return msgspec.json.decode(data, type=kind)
            except (OSError, msgspec.MsgspecError):
                return None  # not visible yet, or only in part

        return self.wait_for(look, 3 * self.patience_s)
