"""Root writes to any file whatever its permissions say. Tests of permissions do without that."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Generator

# Source: linux/capability.h.
_VERSION_3 = 0x20080522
_DAC_OVERRIDE = 1 << 1


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@contextlib.contextmanager
def permissions_count() -> Generator[None]:
    """Within, this thread and the threads that it starts obey the permissions of files.

    An ordinary user does so anyway.
    """
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(_VERSION_3, 0), (_Sets * 2)()

    def call(name: str) -> None:
        if getattr(libc, name)(ctypes.byref(header), ctypes.byref(sets)):
            raise OSError(ctypes.get_errno(), name)

    call("capget")
    before = sets[0].effective
    sets[0].effective = before & ~_DAC_OVERRIDE
    call("capset")
    try:
        yield
    finally:
        sets[0].effective = before
        call("capset")
