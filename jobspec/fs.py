"""The only module that writes queue state: publish, move, append, list.

What holds after `kill -9` at any point: a published name has all of its bytes or does not exist; a
move happened once or not at all; an appended file has whole lines, a torn last one being healed by
the next append. Nothing here takes a lock, reads an mtime or trusts `O_EXCL`: each of them fails on
some network filesystem in use, `rename` holds on all of them.

Temporary names begin with a dot, which makes them nobody's, and name their writer, so that they can
be swept when that writer is dead.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Generator, Mapping
from pathlib import Path

from jobspec.errors import DiskFull, RootError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Filesystems that can't fsync a directory say so with one of these; their renames are synchronous.
_NO_DIR_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
_TEMP = re.compile(
    r"\.tmp-(?P<host>[a-z0-9-]+)-(?P<space>[0-9]+)-(?P<pid>[0-9]+)-(?P<epoch>[0-9]+)-[0-9a-f]{8}-.*"
)
ABANDONED_S = 86400.0


def publish(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Make `path` hold `data`: all of it, durably, or nothing.

    Raises:
        DiskFull: no space or quota left; `path` is as it was and no temporary file stays.
        OSError: anything else, `path` being as it was unless only the directory's sync failed.
    """
    _swap_in(path, data, mode, sync=True)
    sync_dir(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Like `publish` without the fsyncs: for files whose loss costs nothing, such as progress."""
    _swap_in(path, data, 0o644, sync=False)


def move_once(source: Path, target: Path) -> bool:
    """Rename a file whose target name only this move makes.

    Returns:
        True if it is at `target`. False if `source` was gone first: the race is lost.
    """
    try:
        os.rename(source, target)
    except FileNotFoundError:
        # RACE: on a network filesystem the winner too can be told ENOENT, its reply having been
        # lost and the call repeated. The target's name is our own, so finding it proves the move.
        return exists(target)
    return True


def place_dir(staged: Path, target: Path) -> bool:
    """Rename a staged, non-empty directory; if `target` is taken, remove `staged`: False."""
    try:
        os.rename(staged, target)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        remove_tree(staged)
        return False
    return True


@contextlib.contextmanager
def staged_dir(beside: Path, files: Mapping[str, tuple[bytes, int]]) -> Generator[Path]:
    """A temporary directory beside `beside` holding `files` (name → bytes, mode), all fsynced.

    It is removed if the body, or the writing of it, raises an `OSError`.
    """
    staged = temp_beside(beside)
    try:
        with disk_full(beside):
            os.mkdir(staged, 0o755)
            for name, (data, mode) in files.items():
                _write(staged / name, data, mode, sync=True)
            sync_dir(staged)
            yield staged
    except (OSError, DiskFull):
        remove_tree(staged)
        raise


def append(path: Path, data: bytes) -> None:
    """Append whole lines, after ending a torn last line that a killed writer left.

    Raises:
        DiskFull: no space left; the file ends where it ended before.
    """
    whole = data if data.endswith(b"\n") else data + b"\n"
    with disk_full(path):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            try:
                _write_all(descriptor, b"\n" + whole if torn else whole)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)


def rewrite(path: Path, data: bytes) -> bool:
    """Overwrite an existing file's bytes in place; False if it is gone.

    For a queue entry only. RACE: a rename over it could bring back a name that somebody has moved
    away meanwhile; writing to the open file follows it wherever it went.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    with disk_full(path):
        try:
            _write_all(descriptor, data)
            os.ftruncate(descriptor, len(data))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return True


def touch(path: Path) -> None:
    """Make an empty file exist."""
    with disk_full(path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))


def make_dir(path: Path, mode: int = 0o755) -> None:
    """Make a directory and its parents, whatever the umask; one that is there stays as it is."""
    with disk_full(path):
        try:
            os.mkdir(path)
        except FileExistsError:
            return
        except FileNotFoundError:
            make_dir(path.parent, mode)
            os.mkdir(path)
        os.chmod(path, mode)


def link_to(link: Path, destination: str) -> None:
    """Make `link` a symbolic link to `destination`, replacing a link or file in one step."""
    temp = temp_beside(link)
    with disk_full(link):
        try:
            os.symlink(destination, temp)
            os.rename(temp, link)
        except OSError:
            remove(temp)
            raise


def read(path: Path, *, owned: bool = False) -> bytes:
    """A file's bytes. With `owned`, refuse another user's file, and a link.

    Raises:
        RootError: `owned`, and the file belongs to somebody else.
    """
    descriptor = os.open(path, os.O_RDONLY | (os.O_NOFOLLOW if owned else 0))
    try:
        found = os.fstat(descriptor)
        if owned and found.st_uid != os.geteuid():
            raise RootError(
                f"belongs to user id `{found.st_uid}`",
                file=path,
                hint="set JOBSPEC_ALLOW_GROUP=1 to work with the files of your group's members",
            )
        return _read_all(descriptor, found.st_size)
    finally:
        os.close(descriptor)


def exists(path: Path) -> bool:
    """Whether a name is there. An error other than its absence is raised, never taken for it."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def list_dir(path: Path) -> list[str]:
    """The names in a directory, without dotfiles (`.nfs…` and temporary names are nobody's)."""
    return [name for name in os.listdir(path) if not name.startswith(".")]


def list_names(path: Path) -> list[str]:
    """Like `list_dir`; a missing directory has no names."""
    try:
        return list_dir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove(path: Path) -> None:
    """Remove a file; it may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_tree(path: Path) -> None:
    """Remove what can be removed of a temporary file or directory."""
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        for name in os.listdir(path):
            remove_tree(path / name)
        os.rmdir(path)


def sync_dir(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIR_SYNC:
            raise
    finally:
        os.close(descriptor)


def temp_beside(path: Path) -> Path:
    """A name of this process's own beside `path`: `.tmp-<host>-<pid namespace>-<pid>-<time>-…`."""
    nonce = secrets.token_hex(4)
    writer = f"{host()}-{_pid_space()}-{os.getpid()}-{int(time.time())}-{nonce}"
    return path.parent / f".tmp-{writer}-{path.name[:100]}"


def sweep(path: Path) -> list[str]:
    """Remove a directory's temporary names whose writers are dead; returns them.

    Dead is a process that has gone from this host. Of another host's nothing is known: its names
    are left alone for a day.
    """
    swept: list[str] = []
    for name in os.listdir(path):
        found = _TEMP.fullmatch(name)
        if found is not None and _is_abandoned(found):
            remove_tree(path / name)
            swept.append(name)
    return swept


@contextlib.contextmanager
def disk_full(path: Path) -> Generator[None]:
    """Turn ENOSPC and EDQUOT into `DiskFull`, naming `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFull(
            "no space left" if error.errno == errno.ENOSPC else "quota exceeded",
            file=path,
            hint="free space or raise the quota; `jobspec du` shows what takes it",
        ) from error


def _swap_in(path: Path, data: bytes, mode: int, *, sync: bool) -> None:
    temp = temp_beside(path)
    with disk_full(path):
        try:
            _write(temp, data, mode, sync=sync)
            try:
                os.rename(temp, path)
            except FileNotFoundError:
                # RACE: a lost reply again; the bytes tell whether it was ours that arrived.
                if not exists(path) or read(path) != data:
                    raise
        except OSError:
            with contextlib.suppress(OSError):
                remove(temp)
            raise


def _write(path: Path, data: bytes, mode: int, *, sync: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write_all(descriptor, data)
        os.fchmod(descriptor, mode)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read_all(descriptor: int, size: int) -> bytes:
    chunks: list[bytes] = []
    while chunk := os.read(descriptor, max(size, 4096) + 1):
        chunks.append(chunk)
    return b"".join(chunks)


def host() -> str:
    """This machine's name, in the letters that file names may have."""
    return re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")[:24] or "host"


def _pid_space() -> int:
    """Tells containers on one host apart, whose process ids mean nothing to each other."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _is_abandoned(temp: re.Match[str]) -> bool:
    if time.time() - int(temp["epoch"]) > ABANDONED_S:
        return True
    if temp["host"] != host() or int(temp["space"]) != _pid_space():
        return False
    try:
        os.kill(int(temp["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
