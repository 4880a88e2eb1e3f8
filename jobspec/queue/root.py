"""Creates and opens the root directory, and refuses one that other users can change.

Anybody who can write to the queue can run code as its owner, because a spec names models, data and
templates. Directories that others may write to and files that others own are therefore refused.
`JOBSPEC_ALLOW_GROUP=1` allows a group whose members trust each other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

import msgspec

from jobspec.errors import DiskFull, RootError
from jobspec.queue.entries import read_bytes
from jobspec.records import base as records
from jobspec.records.base import State
from jobspec.records.queue_files import LAYOUT, Format
from jobspec.storage import fs
from jobspec.storage.descriptors import ALLOW_GROUP, group_allowed
from jobspec.storage.disk_errors import FULL
from jobspec.storage.layout import RootPaths
from jobspec.storage.patience import TRANSIENT, patient

_MOST_ENTRIES = 100  # of a directory that are searched for a queue


def restrict_umask() -> None:
    """Set the umask so that other users can't write to files of this process and its children.

    Libraries create directories with the umask, and many sites have one that lets a whole group
    write.
    """
    os.umask(private_umask())


def private_umask() -> int:
    """This process's umask, without write permission for others.

    A group that is allowed gets all permissions: its members continue each other's jobs. Any other
    group may not write.
    """
    before = os.umask(0o077)  # the only way to read it is to set it
    os.umask(before)
    return (before & ~0o070) | 0o002 if group_allowed() else before | 0o022


def create_root(root: RootPaths, *, heartbeat_s: float, lease_s: float, group: bool) -> None:
    """Create the directories and finally FORMAT. Existing ones are not changed.

    Raises:
        RootError: the root can't be created.
        DiskFull: there is no space left.
    """
    try:
        if fs.exists(root.root):
            check_directory(root.root, group=group)
        fs.make_dir(root.root, 0o2775 if group else 0o755)
        for path in _directories(root):
            fs.make_dir(path)
        if not fs.exists(root.format):
            layout = Format(layout=LAYOUT, heartbeat_s=heartbeat_s, lease_s=lease_s)
            fs.publish(root.format, records.encode(layout))
    except OSError as error:
        raise RootError(
            f"can't be created: {error.strerror}",
            file=error.filename or root.root,
            hint="name a directory that you may write to with --root or JOBSPEC_ROOT",
        ) from error


def set_timings(root: RootPaths, *, heartbeat_s: float, lease_s: float) -> None:
    """Write timings into FORMAT where they are longer. Running processes keep the old ones.

    Raises:
        RootError: the root is missing or damaged.
    """
    old = _read_format(root)
    longer = {
        "heartbeat_s": max(old.heartbeat_s, heartbeat_s),
        "lease_s": max(old.lease_s, lease_s),
    }
    fs.replace(root.format, records.encode(msgspec.structs.replace(old, **longer)))


def open_root(root: RootPaths, *, group: bool, write: bool = True) -> Format:
    """Check the root before it is used.

    Args:
        root: the root.
        group: whether members of the group may write to it.
        write: False for a reader, to whom it does not matter who owns the root and may write to it.

    Returns:
        The root's FORMAT with the heartbeat and lease that every process has to use.

    Raises:
        RootError: the root is missing, has another layout, is not writable, or others may
            write to it.
    """
    layout = _read_format(root)
    if not write:
        return layout
    for path in _directories(root):
        check_directory(path, group=group)
    for path in (root.cache, root.hub, root.datasets, root.prepared, root.tokenizers):
        if fs.exists(path):  # workers load weights, code and rows from these
            check_directory(path, group=group)
    if patient(os.statvfs)(root.queue).f_flag & os.ST_RDONLY:
        raise DiskFull(FULL[errno.EROFS], file=root.queue, hint="remount it to write to it")
    if not os.access(root.queue, os.W_OK | os.X_OK):
        raise RootError(
            "is not writable", file=root.queue, hint=f"its owner must run: chmod u+rwx {root.queue}"
        )
    return layout


def _directories(root: RootPaths) -> list[Path]:
    states = [root.state(state) for state in State]
    return [root.root, root.jobs, root.queue, *states, root.workers, root.quarantine]


def _read_format(root: RootPaths) -> Format:
    try:
        data = read_bytes(root.format)
    except OSError as error:
        raise _unreadable(error, root.format) from error
    if data is None:
        raise RootError(
            "there is no queue here: `FORMAT` is missing",
            file=root.root,
            hint=_queue_below(root)
            or "`jobspec enqueue` creates one; name another root with --root or JOBSPEC_ROOT",
        )
    layout = records.parse(data, Format)
    if layout is None:
        raise RootError(
            "is damaged",
            file=root.format,
            hint="restore it, or remove it and run `jobspec enqueue`",
        )
    if layout.layout != LAYOUT:
        raise RootError(
            f"has layout `{layout.layout}`, but this version reads layout `{LAYOUT}`",
            file=root.format,
            place="$.layout",
            hint="use the jobspec version that created it, or a new root",
        )
    return layout


def _queue_below(root: RootPaths) -> str | None:
    """A hint at a queue in a directory of `root`, as of the demo; None if there is none."""
    with contextlib.suppress(OSError):
        for name in sorted(fs.list_names(root.root))[:_MOST_ENTRIES]:
            below = RootPaths(root.root / name)
            if fs.exists(below.format):
                return f"there is one in {below.root}: name it with --root or JOBSPEC_ROOT"
    return None


def _unreadable(error: OSError, path: Path) -> Exception:
    """The error to raise; a filesystem that may answer again soon says nothing about the root."""
    if error.errno in TRANSIENT:
        return error
    return RootError(f"can't be read: {error.strerror}", file=path)


def check_directory(path: Path, *, group: bool) -> None:
    """Check that no other user may write to a directory or owns it. Raises RootError."""
    try:
        status = patient(path.stat)()
    except FileNotFoundError as error:
        raise RootError("is missing", file=path, hint="run `jobspec fsck`") from error
    except OSError as error:
        raise _unreadable(error, path) from error
    if status.st_mode & stat.S_IWOTH:
        raise RootError("others may write to it", file=path, hint=f"run: chmod o-w {path}")
    if group:
        return
    if status.st_mode & stat.S_IWGRP:
        raise RootError(
            "its group may write to it",
            file=path,
            hint=f"run: chmod g-w {path} (or set {ALLOW_GROUP}=1 if you trust every member)",
        )
    if status.st_uid != os.geteuid():
        raise RootError(
            f"belongs to user id `{status.st_uid}`",
            file=path,
            hint=f"use a root of your own, or set {ALLOW_GROUP}=1 if you trust the group",
        )
