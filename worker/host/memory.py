"""How much memory the processes of this machine, or of this Slurm job, use and may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_gib(groups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float:
    """Memory of the machine, or the lowest limit of the control groups this process is in.

    Source: cgroups(7); `memory.max` of version 2, `memory.limit_in_bytes` of version 1.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (limit for group in _groups(groups, own) for limit in group.limits())
    return min([machine, *limits]) / 2**30


def oom_kills(groups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """How many processes of this control group the kernel has killed for memory so far.

    Source: cgroups(7), admin-guide/cgroup-v2: `oom_kill` in `memory.events` counts the kills of a
    group and of those below it; in version 1 it is in `memory.oom_control`.
    """
    return max((kills for group in _groups(groups, own) for kills in group.kills()), default=0)


def used_gib(groups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """The most that this control group has used at once; None if the kernel does not say."""
    peaks = [peak for group in _groups(groups, own) for peak in group.peaks()]
    return max(peaks) / 2**30 if peaks else None


class KillWatch:
    """Tells whether the kernel killed one of this worker's processes for memory since it began."""

    def __init__(self) -> None:
        self._kills = oom_kills()

    def describe(self) -> str | None:
        """How much memory the processes used, if one was killed; None otherwise."""
        if oom_kills() <= self._kills:
            return None
        used, limit = used_gib(), usable_gib()
        amount = "all" if used is None else f"{used:.1f}"
        return f"the worker's processes used {amount} of {limit:.1f} GiB"


@dataclass(frozen=True)
class _Group:
    """This process's control group, and those above it up to `top`, the nearest first."""

    directory: Path
    top: Path
    version: int

    def limits(self) -> Iterator[int]:
        file = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
        for each in (self.directory, *self.directory.parents):
            yield from _number(each / file)
            if each == self.top:
                break

    def peaks(self) -> Iterator[int]:
        file = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        yield from _number(self.directory / file)

    def kills(self) -> Iterator[int]:
        file = "memory.events" if self.version == 2 else "memory.oom_control"
        rows = (line.split() for line in _text(self.directory / file).splitlines())
        yield from (int(row[1]) for row in rows if len(row) == 2 and row[0] == "oom_kill")


def _groups(groups: Path, own: Path) -> Iterator[_Group]:
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = groups / controllers
            yield _Group(top / path.lstrip("/"), top, 1 if controllers else 2)


def _number(file: Path) -> Iterator[int]:
    text = _text(file).strip()
    if text.isdigit():  # else "max"
        yield int(text)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
