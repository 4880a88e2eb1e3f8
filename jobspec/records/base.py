"""Base of every record, the words that all of them share, and how records are read and written.

A record is a JSON file that one process writes and another reads. Records ignore fields that they
do not know and default the ones they miss, so workers and command lines of neighbouring versions
read each other's files.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from jobspec.storage import fs

__all__ = ["FINAL", "UNSET", "R", "Reason", "Record", "State", "UnsetType"]


class State(StrEnum):
    """Which directory of `queue/` a job's entry is in."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Reason(StrEnum):
    """Why an attempt ended. Each reason has its own retry budget."""

    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    WALLTIME = "walltime"
    LOST = "lost"
    NODE = "node"
    OOM = "oom"
    DISK = "disk"
    FILESYSTEM = "filesystem"
    FAILED = "failed"
    CORRUPT = "corrupt"
    NO_PROGRESS = "no_progress"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything that a program writes for another program."""


R = TypeVar("R", bound=Record)


def encode(record: Record) -> bytes:
    """Encode a record as one indented JSON object with a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def encode_line(record: Record) -> bytes:
    """Encode a record as one line of a JSONL file."""
    return msgspec.json.encode(record) + b"\n"


def read(path: Path, kind: type[R]) -> R | None:
    """Read the record at `path`. Returns None if the file is missing, empty or torn."""
    try:
        return parse(fs.read(path), kind)
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse(data: bytes, kind: type[R]) -> R | None:
    """Decode a record. Returns None if the bytes are torn, as after a crash."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def utc_now() -> str:
    """UTC, ISO 8601 with microseconds: `2026-11-22T12:40:57.123456Z`."""
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
