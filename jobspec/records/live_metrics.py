"""What a running attempt's newest metric rows say: its loss and its speed, from the file's end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jobspec.storage.layout import AttemptPaths

_TAIL_BYTES = 8192  # some thirty rows
_LATEST = ("loss", "eval_loss", "learning_rate", "grad_norm", "mfu", "epoch")
_decoder = msgspec.json.Decoder(dict[str, Any])


def newest(attempt: AttemptPaths, phase: str) -> dict[str, float]:
    """The newest loss and so on of a phase that trains, the speed as a mean of its last steps.

    Rows of other phases, torn lines and values that are no numbers are passed over.
    """
    if phase != "train":
        return {}
    rows = [row for row in _tail(attempt) if row.get("phase") == phase]
    found: dict[str, float] = {}
    for name in _LATEST:
        if values := _numbers(rows, name):
            found[name] = values[-1]
    if speeds := _numbers(rows, "tokens_per_second"):
        found["tokens_per_second"] = math.fsum(speeds) / len(speeds)
    return found


def last_lines(path: Path, most: int) -> list[bytes]:
    """The whole lines that begin within a file's last `most` bytes. It may grow meanwhile."""
    with path.open("rb") as file:
        begin = max(0, file.seek(0, 2) - most)
        file.seek(begin)
        *lines, _torn = file.read().split(b"\n")
    return lines[1:] if begin else lines


def _tail(attempt: AttemptPaths) -> Iterator[dict[str, Any]]:
    """The last rows of the attempt's metrics. The file may be gone, or grow meanwhile."""
    try:
        lines = last_lines(attempt.metrics, _TAIL_BYTES)
    except OSError:
        return
    for line in lines:
        try:
            yield _decoder.decode(line)
        except msgspec.MsgspecError:
            continue


def _numbers(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    values = [row.get(name) for row in rows]
    return [v for v in values if isinstance(v, int | float)]  # JSON has no words for NaN
