"""Atomic file operations: publish, move, append, list. Only this module writes the queue's state.

Guarantees after `kill -9` at any point: a published file has all of its bytes or does not exist; a
move happened once or not at all; an appended file has complete lines, apart from a torn last line
that the next append ends. Nothing here uses locks, mtimes or `O_EXCL`, which fail on some network
filesystems in use; `rename` works on all of them.

Every operation is repeated while the filesystem fails for a moment (`jobspec.storage.patience`).

Temporary names begin with a dot, so that readers ignore them, and name their writer, so that they
can be swept when it is dead.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path

from jobspec.errors import DiskFull, RootError
from jobspec.storage import concurrent, descriptors, tempfiles
from jobspec.storage.disk_errors import disk_full
from jobspec.storage.patience import patient

# Errors of filesystems that cannot fsync a directory; their renames are synchronous.
_NO_DIR_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
_EXISTS = (errno.ENOTEMPTY, errno.EEXIST)


def publish(path: Path, data: bytes, mode: int | None = None) -> None:
    """Write a file durably: afterwards it has all of `data`, or is as it was before.

    Raises:
        DiskFull: no space or quota left; `path` is unchanged and no temporary file stays.
        OSError: any other error; `path` is unchanged unless only the directory's sync failed.
    """
    publish_together(path.parent, {path.name: data}, mode)


@patient
def publish_together(folder: Path, files: Mapping[str, bytes], mode: int | None = None) -> None:
    """Publish several files of one directory in little more than the time of one.

    Their names appear in the given order, after the bytes of all of them are durable.

    Raises:
        DiskFull, OSError: as for `publish`; nothing has changed unless a rename failed.
    """
    _swap_in(folder, files, mode, sync=True)
    sync_dir(folder)


@patient
def replace(path: Path, data: bytes) -> None:
    """Like `publish` but without fsync, for files that may be lost, such as progress."""
    _swap_in(path.parent, {path.name: data}, None, sync=False)


@patient
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


@patient
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
            _stage(staged, files, sync=sync)
            yield staged
    except (OSError, DiskFull):
        remove_tree(staged)
        raise


def append(path: Path, data: bytes) -> None:
    """Append complete lines, after ending a torn last line that a killed writer left.

    Only one process may append to a file.

    Raises:
        DiskFull: no space left; the file is as long as before.
    """
    whole = data if data.endswith(b"\n") else data + b"\n"
    _append(path, whole, [])


@patient
def _append(path: Path, whole: bytes, before: list[int]) -> None:
    """Append once, however often it is repeated: `before` keeps the size that the file had."""
    with disk_full(path):
        descriptor = descriptors.open_or_create(path, os.O_RDWR | os.O_APPEND)
        try:
            size = os.fstat(descriptor).st_size
            if before and size > before[0]:
                os.ftruncate(descriptor, before[0])
                size = before[0]
            before[:] = [size]
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            try:
                descriptors.write_all(descriptor, b"\n" + whole if torn else whole)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)


@patient
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
            descriptors.write_all(descriptor, data)
            os.ftruncate(descriptor, len(data))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return True


@patient
def touch(path: Path) -> None:
    """Create an empty file if there is none."""
    with disk_full(path):
        try:
            os.close(descriptors.open_or_create(path, os.O_WRONLY))
        except PermissionError:
            if not exists(path):  # else another member of the group has created it
                raise


def make_dir(path: Path, mode: int | None = None) -> None:
    """Create a directory and its parents; an existing one stays as it is.

    `mode` is set whatever the umask is; by default it is the parent's, and so is the group.
    """
    _make_dir(path, mode, set())


@patient
def _make_dir(path: Path, mode: int | None, tried: set[Path]) -> None:
    """Create a directory. One that exists after an earlier try (`tried`) is this call's own."""
    with disk_full(path):
        first = 0o755 if mode is None else mode
        try:
            os.mkdir(path, first)
        except FileExistsError:
            if path not in tried:
                return
        except FileNotFoundError:
            _make_dir(path.parent, mode, tried)
            try:
                os.mkdir(path, first)  # only once: procfs always answers ENOENT
            except FileExistsError:
                return
        except OSError:
            tried.add(path)
            raise
        tried.add(path)
        _adopt(path, os.stat(path.parent), mode)


@patient
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


@patient
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
        return descriptors.read_all(descriptor, status.st_size)
    finally:
        os.close(descriptor)


@patient
def exists(path: Path) -> bool:
    """Whether a name exists. Any error but ENOENT is raised, so it is never read as absence."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


@patient
def list_dir(path: Path) -> list[str]:
    """The names in a directory without dotfiles, such as `.nfs…` and temporary names."""
    return [name for name in os.listdir(path) if not name.startswith(".")]


def list_names(path: Path) -> list[str]:
    """Like `list_dir`, but empty for a missing directory."""
    try:
        return list_dir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


@patient
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


@patient
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


@patient
def sweep(path: Path) -> list[str]:
    """Remove the temporary files in a directory whose writers are dead; returns their names."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        swept = [name for name in os.listdir(path) if tempfiles.is_abandoned(name)]
        for name in swept:
            remove_tree(path / name)
        return swept
    return []


@patient
def _stage(staged: Path, files: Mapping[str, tuple[bytes, int]], *, sync: bool) -> None:
    parent = os.stat(staged.parent)
    try:
        os.mkdir(staged, stat.S_IMODE(parent.st_mode))
    except FileExistsError:  # made by an earlier try, whose files may be read-only by now
        for name in files:
            remove(staged / name)
    _adopt(staged, parent)
    whole = {f"{staged}/{name}": file for name, file in files.items()}
    descriptors.write_files(whole, sync=(partial(sync_dir, staged),) if sync else None)


def _adopt(path: Path, parent: os.stat_result, mode: int | None = None) -> None:
    """Give a new directory its parent's group, and its parent's mode or another.

    Reading what it has is cheaper than setting it. A group can be given only by its members.
    """
    own = os.stat(path)
    wanted = stat.S_IMODE(parent.st_mode) if mode is None else mode
    if own.st_gid != parent.st_gid and mode is None:
        with contextlib.suppress(PermissionError):
            os.chown(path, -1, parent.st_gid)
    if stat.S_IMODE(own.st_mode) != wanted or own.st_gid != parent.st_gid:
        os.chmod(path, wanted)


def _swap_in(folder: Path, files: Mapping[str, bytes], mode: int | None, *, sync: bool) -> None:
    temp_of = {name: f"{folder}/{tempfiles.named(name)}" for name in files}
    mode = descriptors.file_mode() if mode is None else mode
    whole = {temp_of[name]: (data, mode) for name, data in files.items()}
    with disk_full(f"{folder}/{next(iter(files))}"):
        try:
            descriptors.write_files(whole, sync=() if sync else None)
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
