"""Errors of filesystems as messages that name the path and say what to do."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Generator
from pathlib import Path

from jobspec.errors import DiskFull, JobspecError
from jobspec.storage import tempfiles
from jobspec.storage.patience import TRANSIENT

# Nothing can be written until space is freed or the filesystem is repaired.
FULL = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "quota exceeded",
    errno.EROFS: "the filesystem is read-only",
}
_WRITABLE = "name a path that you may write to"
_HINTS = {
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.EROFS: "repair or remount its filesystem, or name a path on another one",
    errno.ENOENT: "create its directory first, or name another path",
    errno.ENOTDIR: "a part of this path is a file; name another path",
    errno.EISDIR: "it is a directory; name a file",
    errno.EEXIST: "name another path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOSPC: "free some space or inodes; `jobspec du` shows what uses them",
    errno.EDQUOT: "free some space or raise the quota; `jobspec du` shows what uses it",
}


@contextlib.contextmanager
def disk_full(path: Path | str) -> Generator[None]:
    """Raise `DiskFull`, which names `path`, instead of ENOSPC, EDQUOT and EROFS."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFull(FULL[error.errno], file=path, hint=_HINTS[error.errno]) from error


def is_of_filesystem(error: OSError) -> bool:
    """Whether an error names a path, or is one that only a filesystem or device causes."""
    return error.filename is not None or error.errno in FULL or error.errno in TRANSIENT


def explain(error: OSError) -> JobspecError:
    """The message for a filesystem's error: the path that it is about, and the reason."""
    name = error.filename2 or error.filename
    if not isinstance(name, str | bytes):
        return JobspecError(f"{error.strerror or error}")
    path = Path(os.fsdecode(name))
    hint = _HINTS.get(error.errno or 0, "look at this path and its filesystem, then try again")
    return JobspecError(
        error.strerror or str(error),
        file=path.with_name(tempfiles.target_of(path.name)) if path.name else path,
        hint=hint,
    )
