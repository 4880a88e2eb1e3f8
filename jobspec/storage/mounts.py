"""Which filesystem a path is on, and how to watch it for changes.

inotify reports only changes made on this machine, so it suffices only where no other can write.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobspec.storage.patience import patient

_LOCAL = frozenset(["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "tmpfs", "overlay"])
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Mount:
    """One line of the mount table. `options` has those of the mount and of the filesystem."""

    kind: str
    source: str
    point: str
    options: frozenset[str] = frozenset()

    @property
    def local(self) -> bool:
        """Whether only this machine can write to it."""
        return self.kind in _LOCAL


def mount_of(path: Path) -> Mount:
    """The mount that `path` is on, or would be on if it existed.

    Source: proc_pid_mountinfo(5): fields before ` - `, then type, source and options.
    """
    here, best = str(path.resolve()), Mount("unknown", "", "")
    for line in _MOUNTS.read_text(errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, source, *rest) = left.split(), right.split()
        point = _unescaped(fields[4])
        if _is_below(here, point) and len(point) >= len(best.point):
            options = ",".join([fields[5], *rest[:1]]).split(",")
            best = Mount(kind, _unescaped(source), point, frozenset(options))
    return best


def is_local(path: Path) -> bool:
    """Whether `path` is on a filesystem that only this machine can write to."""
    return mount_of(path).local


def why_unwritable(path: Path) -> str | None:
    """Why nothing can be written beside `path`, as far as its filesystem tells; else None."""
    found = patient(os.statvfs)(path)
    if found.f_flag & os.ST_RDONLY:
        return "its filesystem is read-only"
    if found.f_files and not found.f_favail:
        return "its filesystem has no free inodes"
    return None if found.f_bavail else "its filesystem is full"


def changes(directory: Path) -> Iterator[object]:
    """Changes in a directory, from inotify; an empty set for every 0.1 s without any."""
    from watchfiles import watch

    return watch(
        directory,
        watch_filter=None,
        debounce=50,
        step=10,
        rust_timeout=100,
        yield_on_timeout=True,
        recursive=False,
        raise_interrupt=False,
    )


def _unescaped(text: str) -> str:
    """Decode the table's octal escapes of blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _is_below(path: str, mount: str) -> bool:
    return mount == "/" or path == mount or path.startswith(mount + "/")
