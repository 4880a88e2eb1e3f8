"""Atomic file operations: publish, move, append, list. Only this module writes the queue's state.

Guarantees after `kill -9` at any point: a published file has all of its bytes or does not exist; a
move happened once or not at all; an appended file has complete lines, apart from a torn last line
that the next append ends. Nothing here uses locks, mtimes or `O_EXCL`, which fail on some network
filesystems in use; `rename` works on all of them.

Temporary names begin with a dot, so that readers ignore them, and name their writer, so that they
can be swept when it is dead.
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
# Errors of filesystems that cannot fsync a directory; their renames are synchronous.
_NO_DIR_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
_EXISTS = (errno.ENOTEMPTY, errno.EEXIST)


def publish(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file durably: afterwards it has all of `data`, or is as it was before.

    Raises:
        DiskFull: no space or quota left; `path` is unchanged and no temporary file stays.
        OSError: any other error; `path` is unchanged unless only the directory's sync failed.
    """
    publish_together(path.parent, {path.name: data}, mode)


def publish_together(folder: Path, files: Mapping[str, bytes], mode: int = 0o644) -> None:
    """Publish several files of one directory in little more than the time of one.

    Their names appear in the given order, after the bytes of all of them are durable.

    Raises:
        DiskFull, OSError: as for `publish`; nothing has changed unless a rename failed.
    """
    _swap_in(folder, files, mode, sync=True)
    sync_dir(folder)


def replace(path: Path, data: bytes) -> None:
    """Like `publish` but without fsync, for files that may be lost, such as progress."""
    _swap_in(path.parent, {path.name: data}, 0o644, sync=False)


def move_once(source: Path, target: Path) -> bool:
    """Rename a file to a name that only this caller uses.

    Returns:
        True if the file is at `target`. False if `source` was gone: another process won the race.
    """
    try:
        os.rename(source, target)
    except FileNotFoundError:
        # RACE: on a network filesystem the winner can get ENOENT too, if its reply was lost and the
        # call repeated. Only this caller uses the target's name, so finding it proves the move.
        return exists(target)
    return True


def place_dir(staged: Path, target: Path) -> bool:
    """Rename a staged, non-empty directory. If `target` exists, remove `staged`: False."""
    try:
        os.rename(staged, target)
    except FileNotFoundError:
        # RACE: a lost reply. Nobody else moves a temporary name, so if it is gone, it arrived.
        if exists(staged) or not exists(target):
            raise
    except OSError as error:
        if error.errno not in _EXISTS:
            raise
        remove_tree(staged)
        return False
    return True


@contextlib.contextmanager
def staged_dir(
    beside: Path, files: Mapping[str, tuple[bytes, int]], *, sync: bool = True
) -> Generator[Path]:
    """Create a temporary directory beside `beside` with `files` (name → bytes, mode), fsynced.

    It gets its parent's permissions, and is removed if writing it or the body raises `OSError`.
    `sync=False` is for files that only their living writer will read.
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
    """Append complete lines, after ending a torn last line that a killed writer left.

    Raises:
        DiskFull: no space left; the file is as long as before.
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
    """Overwrite an existing file in place; False if it is gone.

    Only for queue entries. RACE: publishing could bring back a name that another process has just
    moved away; writing to the open file follows it to its new name.
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
    """Create an empty file if there is none."""
    with disk_full(path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))


def make_dir(path: Path, mode: int | None = None) -> None:
    """Create a directory and its parents; an existing one stays as it is.

    `mode` is set whatever the umask is; by default it is the parent's.
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
                os.mkdir(path, first)  # only once: procfs always answers ENOENT
            except FileExistsError:
                return
        _set_mode(path, _mode_of(path.parent) if mode is None else mode)


def link_to(link: Path, destination: str) -> None:
    """Make `link` a symbolic link to `destination`; replaces a link or file atomically."""
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
                if os.readlink(link) != destination:  # RACE: else only the reply was lost
                    raise
        except OSError:
            with contextlib.suppress(OSError):
                remove(temp)
            raise


def read(path: Path, *, owned: bool = False) -> bytes:
    """Read a file. With `owned`, refuse links and files of other users.

    Raises:
        RootError: `owned`, and the file belongs to another user.
    """
    descriptor = os.open(path, os.O_RDONLY | (os.O_NOFOLLOW if owned else 0))
    try:
        status = os.fstat(descriptor)
        if owned and status.st_uid != os.geteuid():
            raise RootError(
                f"belongs to user id `{status.st_uid}`",
                file=path,
                hint="set JOBSPEC_ALLOW_GROUP=1 to work with the files of your group's members",
            )
        return _read_all(descriptor, status.st_size)
    finally:
        os.close(descriptor)


def exists(path: Path) -> bool:
    """Whether a name exists. Any error but ENOENT is raised, so it is never read as absence."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def list_dir(path: Path) -> list[str]:
    """The names in a directory without dotfiles, such as `.nfs…` and temporary names."""
    return [name for name in os.listdir(path) if not name.startswith(".")]


def list_names(path: Path) -> list[str]:
    """Like `list_dir`, but empty for a missing directory."""
    try:
        return list_dir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove(path: Path) -> None:
    """Remove a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_tree(path: Path) -> None:
    """Remove a temporary file or directory as far as possible, without errors."""
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        for name in os.listdir(path):
            remove_tree(path / name)
        os.rmdir(path)


def discard(path: Path, *, into: Path) -> bool:
    """Delete a file or directory that others may read: rename it to a hidden name first.

    Args:
        into: a directory on the same filesystem whose dotfiles nobody reads.

    Returns:
        False if `path` was gone already.
    """
    hidden = tempfiles.beside(into / path.name)
    if not move_once(path, hidden):
        return False
    remove_tree(hidden)
    return True


def sync_dirs(*paths: Path) -> None:
    """Make the names in several directories durable, in any order."""
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


def sweep(path: Path) -> list[str]:
    """Remove the temporary files in a directory whose writers are dead; returns their names."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        swept = [name for name in os.listdir(path) if tempfiles.is_abandoned(name)]
        for name in swept:
            remove_tree(path / name)
        return swept
    return []


@contextlib.contextmanager
def disk_full(path: Path | str) -> Generator[None]:
    """Raise `DiskFull`, which names `path`, instead of ENOSPC and EDQUOT."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFull(
            "no space left" if error.errno == errno.ENOSPC else "quota exceeded",
            file=path,
            hint="free some space or raise the quota; `jobspec du` shows what uses it",
        ) from error


def _mode_of(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def _make_one(path: Path, mode: int) -> None:
    os.mkdir(path, mode)
    _set_mode(path, mode)


def _set_mode(path: Path, mode: int) -> None:
    """Set a directory's mode if it differs: reading it is cheaper than setting it."""
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
        # RACE: a lost reply; the bytes tell whether this rename arrived.
        if not exists(Path(path)) or read(Path(path)) != data:
            raise


def _write(
    files: Mapping[str, tuple[bytes, int]], *, sync: Sequence[Callable[[], object]] | None
) -> None:
    """Write files (bytes, mode), then fsync them all at once, together with the calls in `sync`."""
    with contextlib.ExitStack() as stack:
        descriptors: list[int] = []
        for path, (data, mode) in files.items():
            # With the mode in `open`, fchmod is rarely needed: a round trip on network filesystems.
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
    os.close(descriptor)  # looked up at the call, because tests replace `os`


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read_all(descriptor: int, size: int) -> bytes:
    chunks: list[bytes] = []
    while chunk := os.read(descriptor, max(size, 4096) + 1):
        chunks.append(chunk)
        if 0 < size <= sum(map(len, chunks)):  # complete: saves the call that returns nothing
            break
    return b"".join(chunks)
