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
import stat
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path

from jobspec.errors import DiskFull, RootError
from jobspec.storage import concurrent, tempfiles

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Filesystems that can't fsync a directory say so with one of these; their renames are synchronous.
_NO_DIR_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


def publish(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Make `path` hold `data`: all of it, durably, or nothing.

    Raises:
        DiskFull: no space or quota left; `path` is as it was and no temporary file stays.
        OSError: anything else, `path` being as it was unless only the directory's sync failed.
    """
    publish_together(path.parent, {path.name: data}, mode)


def publish_together(folder: Path, files: Mapping[str, bytes], mode: int = 0o644) -> None:
    """`publish` several files of one directory, for little more than the time of one.

    Their names appear in the order given, each after all of the files' bytes are durable.

    Raises:
        DiskFull, OSError: as for `publish`; unless a rename failed, nothing has changed.
    """
    _swap_in(folder, files, mode, sync=True)
    sync_dir(folder)


def replace(path: Path, data: bytes) -> None:
    """Like `publish` without the fsyncs: for files whose loss costs nothing, such as progress."""
    _swap_in(path.parent, {path.name: data}, 0o644, sync=False)


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
    except FileNotFoundError:
        # RACE: a lost reply. Nobody else moves a temporary name, so where it has gone it arrived.
        if exists(staged) or not exists(target):
            raise
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        remove_tree(staged)
        return False
    return True


@contextlib.contextmanager
def staged_dir(
    beside: Path, files: Mapping[str, tuple[bytes, int]], *, sync: bool = True
) -> Generator[Path]:
    """A temporary directory beside `beside` holding `files` (name → bytes, mode), fsynced.

    It has its parent's permissions, and is removed if the body, or the writing of it, raises an
    `OSError`. `sync=False` is for what only its living writer will read.
    """
    staged = tempfiles.beside(beside)
    try:
        with disk_full(beside):
            _make_one(staged, _mode_of(staged.parent))
            whole = {f"{staged}/{name}": file for name, file in files.items()}
            _write(whole, sync=(partial(sync_dir, staged),) if sync else None)
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


def make_dir(path: Path, mode: int | None = None) -> None:
    """Make a directory and its parents; one that is there stays as it is.

    `mode` is what it gets, whatever the umask; by default its parent's.
    """
    with disk_full(path):
        first = 0o755 if mode is None else mode
        try:
            os.mkdir(path, first)
        except FileExistsError:
            return
        except FileNotFoundError:
            make_dir(path.parent, mode)
            try:
                os.mkdir(path, first)  # once: procfs says ENOENT of what it won't make, for ever
            except FileExistsError:
                return
        _set_mode(path, _mode_of(path.parent) if mode is None else mode)


def link_to(link: Path, destination: str) -> None:
    """Make `link` a symbolic link to `destination`, replacing a link or file in one step."""
    with disk_full(link):
        try:
            os.symlink(destination, link)
            return
        except FileExistsError:
            temp = tempfiles.beside(link)
        try:
            os.symlink(destination, temp)
            try:
                os.rename(temp, link)
            except FileNotFoundError:
                if os.readlink(link) != destination:  # not just a lost reply
                    raise
        except OSError:
            with contextlib.suppress(OSError):
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


def discard(path: Path, *, into: Path) -> bool:
    """Delete a file or directory that others may be reading, after renaming it out of their sight.

    Args:
        into: a directory on the same filesystem that nobody reads, or whose dotfiles nobody reads.

    Returns:
        False if `path` was gone already.
    """
    hidden = tempfiles.beside(into / path.name)
    if not move_once(path, hidden):
        return False
    remove_tree(hidden)
    return True


def sync_dirs(*paths: Path) -> None:
    """Make the names in several directories durable, where their order does not matter."""
    concurrent.at_once([partial(sync_dir, path) for path in paths])


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
    """A temporary name of this process's own beside `path`, for what is renamed to it whole."""
    return tempfiles.beside(path)


def sweep(path: Path) -> list[str]:
    """Remove a directory's temporary names whose writers are dead; returns them."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        swept = [name for name in os.listdir(path) if tempfiles.is_abandoned(name)]
        for name in swept:
            remove_tree(path / name)
        return swept
    return []


@contextlib.contextmanager
def disk_full(path: Path | str) -> Generator[None]:
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


def _mode_of(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def _make_one(path: Path, mode: int) -> None:
    os.mkdir(path, mode)
    _set_mode(path, mode)


def _set_mode(path: Path, mode: int) -> None:
    """Give a directory this mode, where it hasn't: looking costs less than to set what is so."""
    if _mode_of(path) != mode:
        os.chmod(path, mode)


def _swap_in(folder: Path, files: Mapping[str, bytes], mode: int, *, sync: bool) -> None:
    temp_of = {name: f"{folder}/{tempfiles.named(name)}" for name in files}
    whole = {temp_of[name]: (data, mode) for name, data in files.items()}
    with disk_full(f"{folder}/{next(iter(files))}"):
        try:
            _write(whole, sync=() if sync else None)
            for name, temp in temp_of.items():
                _swap_one_in(f"{folder}/{name}", temp, files[name])
        except OSError:
            for temp in whole:
                with contextlib.suppress(OSError):
                    os.unlink(temp)
            raise


def _swap_one_in(path: str, temp: str, data: bytes) -> None:
    try:
        os.rename(temp, path)
    except FileNotFoundError:
        # RACE: a lost reply again; the bytes tell whether it was ours that arrived.
        if not exists(Path(path)) or read(Path(path)) != data:
            raise


def _write(
    files: Mapping[str, tuple[bytes, int]], *, sync: Sequence[Callable[[], object]] | None
) -> None:
    """Write files (bytes, mode), then fsync all at once, and beside it do what else `sync` says."""
    with contextlib.ExitStack() as stack:
        descriptors: list[int] = []
        for path, (data, mode) in files.items():
            # Asked for at once, the mode is seldom to be set: a round trip on a network filesystem.
            writable = bool(mode & stat.S_IWUSR)
            first = mode if writable else 0o600
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, first)
            stack.callback(_close, descriptor)
            given = stat.S_IMODE(os.fstat(descriptor).st_mode) if writable else first
            _write_all(descriptor, data)
            if given != mode:
                os.fchmod(descriptor, mode)
            descriptors.append(descriptor)
        if sync is not None:
            concurrent.at_once(
                [*(partial(os.fsync, descriptor) for descriptor in descriptors), *sync]
            )


def _close(descriptor: int) -> None:
    os.close(descriptor)  # looked up when called: tests put another `os` in its place


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read_all(descriptor: int, size: int) -> bytes:
    chunks: list[bytes] = []
    while chunk := os.read(descriptor, max(size, 4096) + 1):
        chunks.append(chunk)
        if 0 < size <= sum(map(len, chunks)):  # all that there was: no call for the end of it
            break
    return b"".join(chunks)
