"""Read the records of a `.wandb` file, the form of an offline run.

A header of 7 bytes, then blocks of 32 KiB as in LevelDB's log: each chunk has a CRC-32 of its type
and data (4 bytes), its length (2), its type (1: whole, 2: first, 3: middle, 4: last), all little-
endian. If the last bytes of a block are too few for a chunk's head, they are padding. Derived from
files that wandb 0.31 wrote.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from jobspec.relay.tracked_run import RelayError

_MAGIC = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_BLOCK = 1 << 15
_HEAD = struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = _KINDS = (1, 2, 3, 4)


def records(path: Path) -> Iterator[bytes]:
    """The file's records, each a `wandb_internal_pb2.Record`.

    Raises:
        RelayError: the file is not a `.wandb` file, or a chunk is damaged: its checksum does not
            match, or its length reaches beyond its block. A file that ends inside a chunk is read
            up to that chunk.
    """
    data = path.read_bytes()
    if not data.startswith(_MAGIC):
        raise RelayError("not a .wandb file", file=path)
    parts: list[bytes] = []
    for kind, chunk in _chunks(data, path):
        if kind in (_WHOLE, _FIRST):
            parts = []
        parts.append(chunk)
        if kind in (_WHOLE, _LAST):
            yield b"".join(parts)


def _chunks(data: bytes, path: Path) -> Iterator[tuple[int, bytes]]:
    position = len(_MAGIC)
    while position + _HEAD.size <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEAD.size:
            position += left
            continue
        checksum, length, kind = _HEAD.unpack_from(data, position)
        if kind == length == 0 and not any(data[position:]):
            return  # space that was reserved but never written
        body = data[position + _HEAD.size : position + min(_HEAD.size + length, left)]
        whole = len(body) == length
        if whole and kind in _KINDS and _checksum(kind, body) == checksum:
            yield kind, body
        elif whole or _HEAD.size + length > left or _is_shorter_chunk(kind, body, checksum):
            raise RelayError("has a damaged record", file=path, place=f"byte {position}")
        else:
            return  # the file ends inside this chunk
        position += _HEAD.size + length


def _checksum(kind: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(bytes([kind])))


def _is_shorter_chunk(kind: int, body: bytes, checksum: int) -> bool:
    """Whether a beginning of `body` has the checksum: then the length is damaged, not the end."""
    running = zlib.crc32(bytes([kind]))
    for byte in range(len(body)):
        if running == checksum:
            return True
        running = zlib.crc32(body[byte : byte + 1], running)
    return running == checksum
