"""`manifest-sha256.txt`: the SHA-256 of every file of a bundle, as `sha256sum --check` reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jobspec.errors import JobspecError
from jobspec.storage.layout import BundlePaths

_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<path>[^\n]+)")


def encode(sums: Mapping[str, str]) -> bytes:
    """One line for each path, sorted."""
    return "".join(f"{sums[path]}  {path}\n" for path in sorted(sums)).encode()


def parse(data: bytes) -> dict[str, tuple[int, str]]:
    """The line number and the SHA-256 of each path.

    Raises:
        JobspecError: the bytes are not what `encode` writes.
    """
    found: dict[str, tuple[int, str]] = {}
    lines = data.decode(errors="replace").split("\n")
    if lines.pop() != "":
        raise refused("the last line has no end", len(lines) + 1)
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise refused("not a SHA-256, two spaces and a path", number)
        if match["path"] in found:
            raise refused(f"names `{match['path']}` a second time", number)
        found[match["path"]] = number, match["sha256"]
    if list(found) != sorted(found):
        raise refused("the paths are not sorted", 1)
    return found


def refused(message: str, line: int) -> JobspecError:
    """The error for a line of the sums."""
    return JobspecError(message, file=BundlePaths.SUMS, place=f"line {line}")
