"""Whether this node can write to the root, and the worker's node-local directory."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from worker.host import scheduler_env

SOCKET_PATH_MAX = 107  # sun_path holds 108 bytes with its final NUL: unix(7)
ENGINE_SOCKET_LEN = (
    64  # the longest known name below TMPDIR: the IPC socket of an evaluation engine
)


def can_write(root: Path, size: int = 1 << 24) -> bool:
    """Whether `size` bytes can be written below `root`. Only a write shows an exceeded quota."""
    return write_error(root, size) is None


def write_error(root: Path, size: int) -> OSError | None:
    """The error of writing `size` bytes below `root`; None if it succeeds."""
    probe = root / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with probe.open("wb") as stream:
            stream.write(bytes(size))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


def too_long_for_sockets(tmp: Path) -> bool:
    """Whether a socket below `tmp` would exceed the kernel's limit on a socket's path."""
    return len(str(tmp)) + ENGINE_SOCKET_LEN > SOCKET_PATH_MAX


def short_tmp() -> Path:
    """A new node-local directory for this worker, short enough for sockets."""
    base = Path(scheduler_env.read().tmpdir or os.environ.get("TMPDIR") or "/tmp")
    if too_long_for_sockets(base / "jsw-12345678"):
        base = Path("/tmp")
    return Path(tempfile.mkdtemp(prefix="jsw-", dir=base))
