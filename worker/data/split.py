"""Which rows are held out for evaluation, and which are used if the spec limits their number.

Both choices depend only on the seed and the rows' content. All rows of a prompt go to the same
split: a model trained on one answer to a question would otherwise be evaluated on another answer to
the same question.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """The line numbers of each split's rows."""

    train: set[int]
    held_out: set[int]


def split_rows(
    rows: Sequence[tuple[int, bytes]], ratio: float, seed: int, limit: int | None
) -> Split:
    """Assign every row (line number, prompt key) to a split; train on at most `limit` of them."""
    chosen = choose_held_out((prompt for _, prompt in rows), ratio, seed)
    train = [number for number, prompt in rows if prompt not in chosen]
    return Split(set(train[:limit]), {number for number, prompt in rows if prompt in chosen})


def choose_held_out(prompts: Iterable[bytes], ratio: float, seed: int) -> set[bytes]:
    """The prompts whose rows are the evaluation split.

    Args:
        prompts: each row's prompt key.
        ratio: the fraction of rows to hold out, as closely as whole prompts allow. Above 0 and with
            two or more prompts, at least one prompt is held out, but never all.
        seed: the spec's.
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


def sample_rows(
    lines: Iterable[tuple[int, bytes]], limit: int, ratio: float, seed: int
) -> set[int]:
    """The line numbers of the rows to use if `max_train_samples` is `limit`.

    These are `limit` rows to train on, and held-out rows in proportion. They are chosen by their
    content, so the choice does not depend on their order in the file.
    """
    extra = limit * ratio / (1 - ratio)
    wanted = limit + math.ceil(extra - 1e-9)  # 19 rows at 5 % need 1 more, not 1.0000000000000002
    ranked = sorted((_rank(line, seed), number) for number, line in lines)
    return {number for _, number in ranked[:wanted]}


def _rank(key: bytes, seed: int) -> bytes:
    return hashlib.blake2b(key, digest_size=12, key=seed.to_bytes(8, "little")).digest()
