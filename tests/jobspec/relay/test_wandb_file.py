"""Reading `.wandb` files that were cut short or damaged, at every byte."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobspec.relay import wandb_file
from jobspec.relay.tracked_run import RelayError

BLOCK = 1 << 15
RECORDS = [b"first", b"a" * 40_000, b"", b"b" * 33_000, *(b"row %d" % i for i in range(50))]


def chunks(record: bytes, place: int) -> Iterator[bytes]:
    """The chunks of one record that starts at byte `place`, padding included."""
    kinds = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}
    begins = True
    while begins or record:
        left = BLOCK - place % BLOCK
        if left < 7:
            yield bytes(left)
            place, left = place + left, BLOCK
        body, record = record[: left - 7], record[left - 7 :]
        kind = kinds[begins, not record]
        head = struct.pack("<IHB", zlib.crc32(bytes([kind]) + body), len(body), kind)
        yield head + body
        place, begins = place + 7 + len(body), False


@pytest.fixture(scope="module")
def whole() -> bytes:
    data = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
    for record in RECORDS:
        for chunk in chunks(record, len(data)):
            data += chunk
    return data


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run-1.wandb"


def read(file: Path, data: bytes) -> list[bytes]:
    file.write_bytes(data)
    return list(wandb_file.records(file))


def headers(data: bytes) -> Iterator[int]:
    place = 7
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
        yield place
        place += 7 + struct.unpack_from("<H", data, place + 4)[0]


def test_a_whole_file_gives_every_record(file: Path, whole: bytes) -> None:
    assert read(file, whole) == RECORDS


def test_a_file_cut_at_any_byte_gives_the_records_before_the_cut(file: Path, whole: bytes) -> None:
    around = {place + near for place in headers(whole) for near in range(-3, 12)}
    for cut in sorted({n for n in around if 7 <= n <= len(whole)} | {*range(7, len(whole), 501)}):
        found = read(file, whole[:cut])
        assert found == RECORDS[: len(found)]


def test_reserved_space_at_the_end_is_ignored(file: Path, whole: bytes) -> None:
    assert read(file, whole + bytes(1000)) == RECORDS


def test_every_flipped_bit_of_a_header_is_reported_as_damage(file: Path, whole: bytes) -> None:
    """A wrong length near the end of the file must not pass for a file that was cut there."""
    places = list(headers(whole))
    assert len(places) > 50
    for place in places:
        for bit in range(56):
            data = bytearray(whole)
            data[place + bit // 8] ^= 1 << bit % 8
            with pytest.raises(RelayError, match="damaged"):
                read(file, bytes(data))


def test_a_flipped_bit_in_the_data_is_reported_as_damage(file: Path, whole: bytes) -> None:
    for place in headers(whole):
        (length,) = struct.unpack_from("<H", whole, place + 4)
        for byte in range(0, length, 997):
            data = bytearray(whole)
            data[place + 7 + byte] ^= 1
            with pytest.raises(RelayError, match="damaged"):
                read(file, bytes(data))
