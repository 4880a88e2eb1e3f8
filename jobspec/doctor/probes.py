"""What one process measures of a directory by itself: costs, guarantees, clock, free space."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from jobspec.doctor.measurements import Costs, FreeSpace, Location, ServerClock, Timing
from jobspec.storage import fs, mounts, tempfiles

SOCKET_PATH_MAX = 107  # sun_path holds 108 bytes with its final NUL: unix(7)
ENGINE_SOCKET = 64  # the longest name seen below TMPDIR: an evaluation engine's IPC socket
WORKER_TMP = len("/jsw-") + 8  # a worker's own directory in TMPDIR
_TICK_S = 0.01  # the kernel stamps files by its coarse clock
_TRIES = 20


@contextlib.contextmanager
def workspace(parent: Path) -> Generator[Path]:
    """A directory to try things in, removed afterwards."""
    path = tempfiles.beside(parent / "doctor-probe")
    fs.make_dir(path, 0o755)
    try:
        yield path
    finally:
        fs.remove_tree(path)


def nearest(root: Path) -> Path:
    """The root if it exists, else the nearest existing directory above it."""
    return next(path for path in [root, *root.parents] if path.is_dir())


def location_of(root: Path) -> Location:
    """Where the root is, or would be, and on which filesystem."""
    here = nearest(root)
    mount = mounts.mount_of(here)
    limits = os.statvfs(here)
    return Location(
        path=str(here),
        filesystem=mount.kind,
        source=mount.source,
        mounted_at=mount.point,
        local=mount.local,
        options=sorted(mount.options),
        longest_name=limits.f_namemax,
        room=_free_space(here),
    )


def tmpdir_location() -> Location:
    """Where node-local temporary files go."""
    return location_of(Path(tempfile.gettempdir()).absolute())


def costs(space: Path, within_s: float) -> Costs:
    """Time the calls that a queue consists of."""
    data, numbers, renames = b"x" * 4096, itertools.count(), itertools.count()
    fs.touch(space / "renamed.0")

    def rename() -> None:
        number = next(renames)
        fs.move_once(space / f"renamed.{number}", space / f"renamed.{number + 1}")

    return Costs(
        publish=_timed(lambda: fs.publish(space / f"{next(numbers)}", data), within_s / 2),
        rename=_timed(rename, within_s / 4),
        listing=_timed(lambda: fs.list_dir(space), within_s / 4),
    )


def broken_promises(space: Path) -> Iterator[str]:
    """Describe every guarantee that the queue needs and this filesystem does not give."""
    if not _replaces(space):
        yield "a rename does not replace an existing file"
    if not _refuses_nonempty(space):
        yield "a directory can be renamed onto another that is not empty"
    if not _syncs_directories(space):
        yield "a directory cannot be fsynced, so a crash may undo a rename"
    if not _links(space):
        yield "symbolic links cannot be made: `result.json` and `final_model` will be missing"
    changed = _changed_ownership(space)
    if changed is not None:
        yield changed


def server_clock(space: Path) -> ServerClock:
    """Compare the clock that stamps files with this host's."""
    low, high, whole = float("-inf"), float("inf"), True
    for number in range(5):
        before = time.time()
        fs.touch(space / f"stamp.{number}")
        after = time.time()
        stamp = os.stat(space / f"stamp.{number}").st_mtime  # noqa: PTH116 - as fs.py does
        whole = whole and stamp == int(stamp)
        step = 1.0 if stamp == int(stamp) else _TICK_S
        low, high = max(low, stamp - after), min(high, stamp + step - before)
    return ServerClock(ahead_s=(low + high) / 2, error_s=abs(high - low) / 2, whole_seconds=whole)


def _timed(act: Callable[[], object], within_s: float) -> Timing:
    durations: list[float] = []
    deadline = time.monotonic() + within_s
    while len(durations) < _TRIES and (not durations or time.monotonic() < deadline):
        started = time.perf_counter()
        act()
        durations.append(time.perf_counter() - started)
    median_s = sorted(durations)[len(durations) // 2]
    return Timing(count=len(durations), median_s=median_s, longest_s=max(durations))


def _free_space(here: Path) -> FreeSpace:
    limits = os.statvfs(here)
    return FreeSpace(
        free_gib=limits.f_bavail * limits.f_frsize / 2**30,
        free_inodes=limits.f_favail if limits.f_files else None,
    )


def _replaces(space: Path) -> bool:
    old, new = space / "old", space / "new"
    fs.publish(old, b"old")
    fs.publish(new, b"new")
    try:
        new.rename(old)
    except OSError:
        return False
    return old.read_bytes() == b"new"


def _refuses_nonempty(space: Path) -> bool:
    one, other = space / "one", space / "other"
    for path in (one, other):
        fs.make_dir(path)
        fs.touch(path / path.name)
    try:
        one.rename(other)
    except OSError as error:
        return error.errno in (errno.ENOTEMPTY, errno.EEXIST)
    return False


def _syncs_directories(space: Path) -> bool:
    descriptor = os.open(space, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _links(space: Path) -> bool:
    try:
        fs.link_to(space / "link", "somewhere/else")
    except OSError:
        return False
    return (space / "link").is_symlink()


def _changed_ownership(space: Path) -> str | None:
    """What is wrong with the owner and the permissions of a new file; None if nothing is."""
    path = space / "mine"
    fs.publish(path, b"", mode=0o444)
    status = path.stat()
    if status.st_uid != os.geteuid():
        return f"files of user id {os.geteuid()} belong to {status.st_uid} (root is squashed?)"
    if stat.S_IMODE(status.st_mode) != 0o444:
        return f"mode 0444 became {stat.S_IMODE(status.st_mode):04o}: permissions are not kept"
    return None
