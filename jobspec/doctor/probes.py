"""What one process finds out about a directory by itself: costs, meanings, clock, room."""

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

from jobspec.doctor.measurements import Costs, Free, Place, ServerClock, Timing
from jobspec.storage import fs, mounts, tempfiles

SOCKET_PATH_MAX = 107  # sun_path holds 108 bytes with its final NUL: unix(7)
ENGINE_SOCKET = 64  # the longest name seen below TMPDIR: an evaluation engine's IPC socket
WORKER_TMP = len("/jsw-") + 8  # a worker's own directory in TMPDIR
_TICK_S = 0.01  # the kernel stamps files by its coarse clock
_TRIES = 20


@contextlib.contextmanager
def workspace(place: Path) -> Generator[Path]:
    """A directory to try things in, removed afterwards."""
    path = tempfiles.beside(place / "doctor-probe")
    fs.make_dir(path, 0o755)
    try:
        yield path
    finally:
        fs.remove_tree(path)


def nearest(root: Path) -> Path:
    """The root, or where it isn't there yet the directory it would be made in."""
    return next(path for path in [root, *root.parents] if path.is_dir())


def place_of(root: Path) -> Place:
    """Where the root is, or would be, and on what."""
    here = nearest(root)
    mount = mounts.mount_of(here)
    limits = os.statvfs(here)
    return Place(
        path=str(here),
        filesystem=mount.kind,
        source=mount.source,
        mounted_at=mount.point,
        local=mount.local,
        options=sorted(mount.options),
        longest_name=limits.f_namemax,
        room=_room(here),
    )


def tmpdir_of() -> Place:
    """Where node-local temporary files go."""
    return place_of(Path(tempfile.gettempdir()).absolute())


def costs(space: Path, within_s: float) -> Costs:
    """What the calls cost that a queue lives on."""
    data, numbers, beats = b"x" * 4096, itertools.count(), itertools.count()
    fs.touch(space / "beat.0")

    def rename() -> None:
        number = next(beats)
        fs.move_once(space / f"beat.{number}", space / f"beat.{number + 1}")

    return Costs(
        publish=_timed(lambda: fs.publish(space / f"{next(numbers)}", data), within_s / 2),
        rename=_timed(rename, within_s / 4),
        listing=_timed(lambda: fs.list_dir(space), within_s / 4),
    )


def broken_promises(space: Path) -> Iterator[str]:
    """What the filesystem does otherwise than the queue relies on; nothing where all is well."""
    if not _replaces(space):
        yield "a rename does not replace what has the name"
    if not _refuses_taken(space):
        yield "a directory can be renamed onto one that is not empty"
    if not _syncs_directories(space):
        yield "a directory can't be fsynced, so a crash may undo a move"
    if not _links(space):
        yield "symbolic links can't be made: `result.json` and `final_model` will be missing"
    kept = _kept(space)
    if kept is not None:
        yield kept


def server_clock(space: Path) -> ServerClock:
    """The clock that stamps files, against this host's."""
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
    took: list[float] = []
    deadline = time.monotonic() + within_s
    while len(took) < _TRIES and (not took or time.monotonic() < deadline):
        started = time.perf_counter()
        act()
        took.append(time.perf_counter() - started)
    return Timing(count=len(took), median_s=sorted(took)[len(took) // 2], longest_s=max(took))


def _room(here: Path) -> Free:
    found = os.statvfs(here)
    return Free(
        free_gib=found.f_bavail * found.f_frsize / 2**30,
        free_inodes=found.f_favail if found.f_files else None,
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


def _refuses_taken(space: Path) -> bool:
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


def _kept(space: Path) -> str | None:
    """Whether what is made belongs to its maker and keeps the permissions it is given."""
    path = space / "mine"
    fs.publish(path, b"", mode=0o444)
    found = path.stat()
    if found.st_uid != os.geteuid():
        return f"what user id {os.geteuid()} makes belongs to {found.st_uid} (root is squashed?)"
    if stat.S_IMODE(found.st_mode) != 0o444:
        return f"mode 0444 became {stat.S_IMODE(found.st_mode):04o}: permissions are not kept"
    return None
