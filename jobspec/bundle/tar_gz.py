"""The `.tar.gz` of a bundle: the same bytes for the same files, and read with suspicion.

Only what `write` writes is read: regular files with fixed owners, modes and times. Everything else
that a tar file can hold (links, devices, extended headers, …) is refused with its name.
"""

from __future__ import annotations

import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Protocol

from jobspec.errors import JobspecError

_GZIP_HEADER = bytes.fromhex("1f8b08000000000000ff")  # deflate, no name, no time, no system
_BLOCK = 512
_CHUNK = 1 << 20
_USTAR_SIZE = 8 * 2**30
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a directory",
}
_OTHER_PROGRAM = "if another program packed it, unpack it and name the directory"


class Readable(Protocol):
    """The content of a file: `read` returns at most `most` bytes, none at its end."""

    def read(self, most: int, /) -> bytes: ...


def write(target: IO[bytes], files: Iterable[tuple[str, int, Readable]]) -> None:
    """Write a gzipped tar.

    Args:
        files: name, size in bytes, and a stream of the content; in the order they are to have.
    """
    target.write(_GZIP_HEADER)
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    checksum = size = 0

    def put(data: bytes) -> None:
        nonlocal checksum, size
        checksum, size = zlib.crc32(data, checksum), size + len(data)
        target.write(packer.compress(data))

    for name, length, stream in files:
        put(_header(name, length))
        while data := stream.read(_CHUNK):
            put(data)
        put(bytes(-length % _BLOCK))
    put(bytes(2 * _BLOCK))
    target.write(packer.flush())
    target.write(struct.pack("<II", checksum, size & 0xFFFFFFFF))


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT if size >= _USTAR_SIZE else tarfile.USTAR_FORMAT)


def read(file: Path, most_bytes: int, most_ratio: int) -> Iterator[tuple[str, int, Readable]]:
    """Yield the name, the size and the content of each file. The content must be read at once.

    Args:
        most_bytes: of the tar file; more are refused as soon as they are read.
        most_ratio: of its bytes to those of the compressed file, once there are many.

    Raises:
        JobspecError: the file is damaged, too large, or not what `write` writes.
    """
    with file.open("rb") as stream:
        tar = _Inflated(stream, file, most_bytes, most_ratio)
        last = "the beginning"
        while (block := tar.exactly(_BLOCK, after=last)) != bytes(_BLOCK):
            entry = _entry(block, file, after=last)
            content = _Content(tar, entry.size, entry.name)
            yield entry.name, entry.size, content
            content.finish()
            if tar.exactly(-entry.size % _BLOCK, after=entry.name).strip(b"\0"):
                raise _refused(file, f"after `{entry.name}`", "bytes that belong to no file")
            last = f"`{entry.name}`"
        if tar.exactly(_BLOCK, after=last) != bytes(_BLOCK) or tar.read(1):
            raise _refused(file, f"after {last}", "bytes that belong to no file")


def _entry(block: bytes, file: Path, after: str) -> tarfile.TarInfo:
    try:
        entry = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise _refused(file, f"after {after}", f"not a header of a tar file: {error}") from error
    if entry.type != tarfile.REGTYPE:
        kind = _KINDS.get(entry.type, f"an entry of type {entry.type!r}")
        raise _refused(file, f"`{entry.name}`", f"is {kind}, not a file")
    try:
        same = _header(entry.name, entry.size) == block
    except ValueError:
        same = False
    if not same:
        raise _refused(file, f"`{entry.name}`", "its header has an owner, a time or a mode")
    return entry


def _refused(file: Path, place: str, message: str) -> JobspecError:
    return JobspecError(message, file=file.name, place=place, hint=_OTHER_PROGRAM)


class _Inflated:
    """A gzip stream that refuses to become too large, and is verified at its end."""

    def __init__(self, stream: IO[bytes], file: Path, most_bytes: int, most_ratio: int) -> None:
        self.file = file
        self._stream = stream
        self._most = most_bytes
        self._ratio = most_ratio
        self._unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        self._packed = self._size = self._checksum = 0
        self._buffer = b""
        if stream.read(len(_GZIP_HEADER)) != _GZIP_HEADER:
            raise _refused(file, "byte 1", "not a gzip file as `jobspec bundle` writes it")

    def read(self, most: int) -> bytes:
        """At most this many bytes; none at the end, which is then verified."""
        while not self._buffer and not self._unpacker.eof:
            self._fill()
        data, self._buffer = self._buffer[:most], self._buffer[most:]
        if not data and most:
            self._verify_end()
        return data

    def exactly(self, size: int, after: str) -> bytes:
        """That many bytes. Raises JobspecError if there are fewer."""
        parts: list[bytes] = []
        while size:
            data = self.read(size)
            if not data:
                raise _refused(self.file, f"after {after}", "the file ends too early")
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def _fill(self) -> None:
        packed = self._unpacker.unconsumed_tail or self._stream.read(_CHUNK // 16)
        if not packed:
            raise _refused(self.file, f"byte {self._stream.tell()}", "the file ends too early")
        try:
            data = self._unpacker.decompress(packed, _CHUNK)
        except zlib.error as error:
            place = f"before byte {self._stream.tell()}"
            raise _refused(self.file, place, f"damaged: {error}") from error
        self._size += len(data)
        self._checksum = zlib.crc32(data, self._checksum)
        packed_size = max(self._stream.tell(), _CHUNK // 16)
        if self._size > self._most or self._size > self._ratio * packed_size:
            message = f"unpacks to more than {self._size - 1:,} bytes, which is not believed"
            raise _refused(self.file, f"byte {self._stream.tell()}", message)
        self._buffer += data

    def _verify_end(self) -> None:
        end = self._unpacker.unused_data + self._stream.read(9)
        if end != struct.pack("<II", self._checksum, self._size & 0xFFFFFFFF):
            raise _refused(self.file, "the last 8 bytes", "the checksum is not that of the content")


class _Content:
    """The content of one file: as much of the tar file as the header said."""

    def __init__(self, tar: _Inflated, size: int, name: str) -> None:
        self._tar = tar
        self._left = size
        self._name = name

    def read(self, most: int = _CHUNK) -> bytes:
        if self._left == 0:
            return b""
        data = self._tar.read(min(most, self._left))
        if not data:
            raise _refused(self._tar.file, f"`{self._name}`", "the file ends too early")
        self._left -= len(data)
        return data

    def finish(self) -> None:
        """Skip what was not read."""
        while self.read():
            pass
