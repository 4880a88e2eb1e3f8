"""Tells sets of weights apart by reading a small part of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

_SAMPLED_BLOCKS = 16
_BLOCK_BYTES = 1 << 16


def fingerprint(directory: Path) -> str:
    """Tells one set of weights from another without reading all of it.

    Small files count whole; of each weight file its size, its head and blocks spread over it, every
    one of which training changes.
    """
    digest = hashlib.sha256()
    files = sorted(path for path in directory.iterdir() if path.is_file())
    for path in files:
        size = path.stat().st_size
        digest.update(msgspec.json.encode([path.name, size]))
        with path.open("rb") as file:
            if size <= _SAMPLED_BLOCKS * _BLOCK_BYTES:
                digest.update(file.read())
                continue
            for block in range(_SAMPLED_BLOCKS):
                file.seek(block * (size - _BLOCK_BYTES) // (_SAMPLED_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()
