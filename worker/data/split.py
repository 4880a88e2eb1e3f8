"""Which rows are held out, and which are taken where the spec wants only some. Pure, and seeded.

A prompt's rows stay together: a model that was trained on one answer to a question would be scored
on another by memory.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Dealt:
    """The line numbers of each split's rows."""

    train: set[int]
    held_out: set[int]


def deal(rows: Sequence[tuple[int, bytes]], ratio: float, seed: int, limit: int | None) -> Dealt:
    """Every row (line number, prompt key) to its split; at most `limit` of them to train on."""
    chosen = held_out((prompt for _, prompt in rows), ratio, seed)
    train = [number for number, prompt in rows if prompt not in chosen]
    return Dealt(set(train[:limit]), {number for number, prompt in rows if prompt in chosen})


def held_out(prompts: Iterable[bytes], ratio: float, seed: int) -> set[bytes]:
    """The prompts whose rows are the evaluation split.

    Args:
        prompts: each row's prompt key.
        ratio: the share of rows to hold out, met as nearly as whole prompts allow; of two prompts
            or more at least one is held out where it is above 0, and never all.
    """
    rows = Counter(prompts)
    if ratio <= 0 or len(rows) < 2:
        return set()
    target = ratio * rows.total()
    order = sorted(rows, key=lambda key: _rank(key, seed))
    chosen: set[bytes] = set()
    count = 0
    for key in order[:-1]:
        if count + rows[key] / 2 <= target or not chosen:
            chosen.add(key)
            count += rows[key]
        if count >= target:
            break
    return chosen


def candidates(lines: Iterable[tuple[int, bytes]], limit: int, ratio: float, seed: int) -> set[int]:
    """The line numbers of the rows to look at where `max_train_samples` is `limit`.

    As many as make `limit` rows to train on beside their share of held-out ones, drawn by content:
    the same rows are drawn wherever they stand in the file.
    """
    beside = limit * ratio / (1 - ratio)
    wanted = limit + math.ceil(beside - 1e-9)  # 19 rows at 5 % are 1 beside, not 1.0000000000000002
    ranked = sorted((_rank(line, seed), number) for number, line in lines)
    return {number for _, number in ranked[:wanted]}


def _rank(key: bytes, seed: int) -> bytes:
    return hashlib.blake2b(key, digest_size=12, key=seed.to_bytes(8, "little")).digest()
