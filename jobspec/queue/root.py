"""The root directory: made, opened, and refused where it can't be trusted.

Whoever can write to the queue can run code as its owner, for a spec names models, data and
templates. So directories that others may write to are refused, and files that others own; a group
whose members trust each other is allowed by `JOBSPEC_ALLOW_GROUP=1`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from jobspec.errors import RootError
from jobspec.queue.entries import read_bytes
from jobspec.records import base as records
from jobspec.records.base import State
from jobspec.records.queue_files import LAYOUT, Format
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths

ALLOW_GROUP = "JOBSPEC_ALLOW_GROUP"


def group_allowed() -> bool:
    """Whether the environment allows the group's members to write and own files here."""
    return os.environ.get(ALLOW_GROUP, "") not in ("", "0")


def keep_others_out() -> None:
    """Let nobody else write to what this process and its children make, whatever made it.

    Libraries make directories by the umask, which many sites set to let a whole group write.
    """
    os.umask(private_umask())


def private_umask() -> int:
    """The umask of this process, tightened so that others, and a group that isn't allowed, may
    not write."""
    before = os.umask(0o077)  # the only way to read it is to set it
    os.umask(before)
    return before | (0o002 if group_allowed() else 0o022)


def create(root: RootPaths, *, heartbeat_s: float, lease_s: float, group: bool) -> None:
    """Make the directories and, last, FORMAT. What is there already stays as it is.

    Raises:
        RootError: it can't be made there.
        DiskFull: no space left.
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
            f"can't be made: {error.strerror}",
            file=error.filename or root.root,
            hint="name a directory of yours with --root or JOBSPEC_ROOT",
        ) from error


def open_root(root: RootPaths, *, group: bool) -> Format:
    """Check everything that a program relies on.

    Returns:
        The root's FORMAT, whose heartbeat and lease are to be obeyed.

    Raises:
        RootError: missing, of another layout, not writable, or open to others.
    """
    layout = _read_format(root)
    for path in _directories(root):
        check_directory(path, group=group)
    for path in (root.cache, root.hub, root.datasets, root.prepared, root.tokenizers):
        if fs.exists(path):  # weights, code and rows that workers take from here
            check_directory(path, group=group)
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
        raise RootError(f"can't be read: {error.strerror}", file=root.format) from error
    if data is None:
        raise RootError(
            "no queue is here: `FORMAT` is missing",
            file=root.root,
            hint="`jobspec enqueue` makes one; name another with --root or JOBSPEC_ROOT",
        )
    layout = records.parse(data, Format)
    if layout is None:
        raise RootError("is damaged", file=root.format, hint="restore it, or remove it and enqueue")
    if layout.layout != LAYOUT:
        raise RootError(
            f"has layout `{layout.layout}`, this version reads `{LAYOUT}`",
            file=root.format,
            place="$.layout",
            hint="use the jobspec version that made it, or start a new root",
        )
    return layout


def check_directory(path: Path, *, group: bool) -> None:
    """Refuse a directory that others may write to or own. Raises RootError."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise RootError("is gone", file=path, hint="run `jobspec fsck`") from error
    except OSError as error:
        raise RootError(f"can't be looked at: {error.strerror}", file=path) from error
    if found.st_mode & stat.S_IWOTH:
        raise RootError("others may write to it", file=path, hint=f"run: chmod o-w {path}")
    if group:
        return
    if found.st_mode & stat.S_IWGRP:
        raise RootError(
            "its group may write to it",
            file=path,
            hint=f"run: chmod g-w {path} (or, trusting every member, set {ALLOW_GROUP}=1)",
        )
    if found.st_uid != os.geteuid():
        raise RootError(
            f"belongs to user id `{found.st_uid}`",
            file=path,
            hint=f"use a root of your own, or, trusting the group, set {ALLOW_GROUP}=1",
        )
