"""Assigns rows to steps and micro-batches, depending only on seed, epoch and lengths.

Each step trains one *global batch* of rows, the same on any number of devices. All ranks get the
same number of micro-batches, because they communicate in each. If there are too few rows, a
micro-batch repeats a row with weight 0.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

_WINDOW = 32  # number of global batches whose rows are sorted by length together


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that one rank runs at once. `weight` is 0.0 for a filler, which is not trained on."""

    rows: tuple[int, ...]
    weight: float = 1.0


def global_batches(
    lengths: Sequence[int], *, seed: int, epoch: int, batch_size: int
) -> list[list[int]]:
    """Divide the rows of one epoch into steps; each row occurs exactly once.

    Rows are shuffled, then sorted by length within windows of 32 batches, and the batches are
    shuffled. So the rows of a batch have similar lengths: less padding, and ranks wait less.

    Args:
        lengths: tokens of each row.
        seed: the spec's.
        epoch: counted from 0.
        batch_size: rows per step (`train.global_batch_size`); the last batch may be smaller.
    """
    shuffle = random.Random(f"{seed}:{epoch}").shuffle
    rows = list(range(len(lengths)))
    shuffle(rows)
    window = _WINDOW * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(rows), window):
        chunk = sorted(rows[start : start + window], key=lengths.__getitem__)
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    shuffle(batches)
    return batches


def micro_batches(
    batch: Sequence[int], lengths: Sequence[int], *, world: int, size: int
) -> list[list[MicroBatch]]:
    """Distribute a global batch: `world` lists of equal length, longest rows first.

    Args:
        batch: indices of rows.
        lengths: tokens of each row.
        world: number of ranks.
        size: limit of rows per micro-batch (`per_device_train_batch_size`).
    """
    rows = sorted(batch, key=lambda row: (-lengths[row], row))
    cut = [MicroBatch(tuple(rows[i : i + size])) for i in range(0, len(rows), size)]
    return _distribute(cut, lengths, world)


def packed_batches(
    batch: Sequence[int], lengths: Sequence[int], *, world: int, max_tokens: int
) -> list[list[MicroBatch]]:
    """Distribute a global batch as packs of at most `max_tokens` tokens, by best fit.

    Rows are never split; a row longer than `max_tokens` gets its own pack. There are at least
    `world` packs if there are enough rows, so that no rank is idle.
    """
    rows = sorted(batch, key=lambda row: (-lengths[row], row))
    limit = min(max_tokens, max(lengths[rows[0]], -(-sum(lengths[r] for r in rows) // world)))
    packs: list[list[int]] = []
    space: list[int] = []
    for row in rows:
        fitting = [i for i, free in enumerate(space) if free >= lengths[row]]
        if fitting:
            best = min(fitting, key=space.__getitem__)
            packs[best].append(row)
            space[best] -= lengths[row]
        else:
            packs.append([row])
            space.append(limit - lengths[row])
    return _distribute([MicroBatch(tuple(pack)) for pack in packs], lengths, world)


def round_up(number: int, multiple: int) -> int:
    """The next multiple, or the number itself if it is one."""
    return number + -number % multiple


def padded_batches(
    batch: Sequence[int],
    lengths: Sequence[int],
    *,
    world: int,
    max_tokens: int,
    multiple: int = 1,
) -> list[list[MicroBatch]]:
    """Distribute a global batch as micro-batches of at most `max_tokens`, padding included.

    A row longer than `max_tokens` gets its own micro-batch. There are at least `world` of them if
    there are enough rows. Rows are padded to a multiple of `multiple`.
    """
    rows = sorted(batch, key=lambda row: (-lengths[row], row))
    most = -(-len(rows) // world)
    cut: list[MicroBatch] = []
    while rows:
        longest = round_up(lengths[rows[0]], multiple)
        size = min(most, max(1, max_tokens // longest))
        cut.append(MicroBatch(tuple(rows[:size])))
        rows = rows[size:]
    return _distribute(cut, lengths, world)


def _distribute(
    micros: list[MicroBatch], lengths: Sequence[int], world: int
) -> list[list[MicroBatch]]:
    shortest = min((row for micro in micros for row in micro.rows), key=lambda r: (lengths[r], r))
    while len(micros) % world:
        micros.append(MicroBatch((shortest,), weight=0.0))
    return [micros[rank::world] for rank in range(world)]
