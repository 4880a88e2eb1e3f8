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
    """The positions of each split's rows; for those to train on, how often in an epoch."""

    train: dict[int, int]
    held_out: set[int]


def split_rows(
    rows: Sequence[tuple[int, bytes]], ratio: float, seed: int, limit: int | None
) -> Split:
    """Assign every row (position, prompt key) to a split; train on at most `limit` of them."""
    chosen = choose_held_out((prompt for _, prompt in rows), ratio, seed)
    train = [number for number, prompt in rows if prompt not in chosen]
    held_out = {number for number, prompt in rows if prompt in chosen}
    return Split(dict.fromkeys(train[:limit], 1), held_out)


def choose_held_out(prompts: Iterable[bytes], ratio: float, seed: int) -> set[bytes]:
    """The prompts whose rows are the evaluation split.

    Prompts are taken in an order that the seed decides, as long as their rows are not more than
    asked for. If another choice of whole prompts comes closer, it is used instead.

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
    chosen, count = _fill(rows, order, math.floor(target + 0.5))
    if count and abs(count - target) <= 0.5:
        return chosen
    groups = Counter(rows.values())
    best = _nearest_count(groups, target)
    if count and abs(count - target) <= abs(best - target):
        return chosen
    sizes = _sizes_of(best, groups, Counter(rows[key] for key in chosen))
    by_size = {size: [key for key in order if rows[key] == size] for size in sizes}
    return {key for size, number in sizes.items() for key in by_size[size][:number]}


def _fill(rows: Counter[bytes], order: list[bytes], most: int) -> tuple[set[bytes], int]:
    """The prompts that fit one after another into `most` rows, never all, and their rows."""
    chosen: set[bytes] = set()
    count, most = 0, min(most, rows.total() - 1)
    for key in order:
        if count + rows[key] <= most:
            chosen.add(key)
            count += rows[key]
    return chosen, count


def _nearest_count(sizes: Counter[int], target: float) -> int:
    """The number of rows, at least 1 and not all, nearest to `target` that groups can add up to.

    Args:
        sizes: how many groups there are of each size.
    """
    *_, sums = _reachable(sizes, _limit(sizes, target))
    near = int(target)
    below = (sums & ((1 << near + 1) - 1)).bit_length() - 1  # the highest of them
    above = sums >> near + 1
    found = [below] if below > 0 else []
    if above:
        found.append(near + (above & -above).bit_length())  # the lowest of them
    return min(found, key=lambda count: abs(count - target))


def _sizes_of(count: int, sizes: Counter[int], near: Counter[int]) -> dict[int, int]:
    """How many groups of each size add up to `count`; of each, about as many as in `near`."""
    tables = _reachable(sizes, count)
    chosen: dict[int, int] = {}
    for size, table in reversed(list(zip(sorted(sizes), tables[:-1], strict=True))):
        most = min(sizes[size], count // size)
        possible = (n for n in range(most + 1) if table >> count - n * size & 1)
        chosen[size] = min(possible, key=lambda n, size=size: abs(n - near[size]))
        count -= chosen[size] * size
    return chosen


def _limit(sizes: Counter[int], target: float) -> int:
    """The largest sum that can be nearest to `target`: the smallest group is always a choice."""
    rows = sum(size * number for size, number in sizes.items())
    return min(max(math.ceil(2 * target), min(sizes)), rows - 1)


def _reachable(sizes: Counter[int], limit: int) -> list[int]:
    """The sums up to `limit` that groups can have, as bits: without any, with the first size, …"""
    tables = [1]
    for size in sorted(sizes):
        sums, left, step = tables[-1], sizes[size], 1
        while left and size <= limit:
            taken = min(step, left)
            sums |= sums << taken * size & ((1 << limit + 1) - 1)
            left, step = left - taken, 2 * step
        tables.append(sums)
    return tables


def sample_rows(
    lines: Iterable[tuple[int, bytes]], limit: int, ratio: float, seed: int
) -> set[int]:
    """The positions of the rows to use if `max_train_samples` is `limit`.

    These are `limit` rows to train on, and held-out rows in proportion. They are chosen by their
    content, so the choice does not depend on their order in the file.
    """
    extra = limit * ratio / (1 - ratio)
    wanted = limit + math.ceil(extra - 1e-9)  # 19 rows at 5 % need 1 more, not 1.0000000000000002
    return choose_rows(lines, wanted, seed)


def choose_rows(rows: Iterable[tuple[int, bytes]], count: int, seed: int) -> set[int]:
    """The positions of `count` rows (position, key) that seed and keys decide."""
    ranked = sorted((_rank(key, seed), number) for number, key in rows) if count else []
    return {number for _, number in ranked[:count]}


def _rank(key: bytes, seed: int) -> bytes:
    return hashlib.blake2b(key, digest_size=12, key=seed.to_bytes(8, "little")).digest()
