"""Writes and reads whole files through descriptors for `jobspec.storage.fs`, and their mode."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from jobspec.storage import concurrent

ALLOW_GROUP = "JOBSPEC_ALLOW_GROUP"


def group_allowed() -> bool:
    """Whether the environment lets members of the group write and own files in the root."""
    return os.environ.get(ALLOW_GROUP, "") not in ("", "0")


def file_mode() -> int:
    """The mode of a new file: members of an allowed group may change each other's."""
    return 0o664 if group_allowed() else 0o644


def open_or_create(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file; create it if there is none.

    RACE: MooseFS says that the file exists, which is no error without O_EXCL, if a process on
    another node creates it at the same moment. Then it can be opened.
    """
    try:
        return os.open(path, flags | os.O_CREAT, file_mode())
    except FileExistsError:
        return os.open(path, flags)


def write_files(
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
            write_all(descriptor, data)
            if given != mode:
                os.fchmod(descriptor, mode)
            descriptors.append(descriptor)
        if sync is not None:
            concurrent.at_once(
                [*(partial(os.fsync, descriptor) for descriptor in descriptors), *sync]
            )


def _close(descriptor: int) -> None:
    os.close(descriptor)  # looked up at the call, because tests replace `os`


def write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def read_all(descriptor: int, size: int) -> bytes:
    chunks: list[bytes] = []
    while chunk := os.read(descriptor, max(size, 4096) + 1):
        chunks.append(chunk)
        if 0 < size <= sum(map(len, chunks)):  # complete: saves the call that returns nothing
            break
    return b"".join(chunks)
