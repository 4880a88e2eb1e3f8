"""Which rows make which step: a function of seed, epoch and lengths alone, whatever the devices.

A step trains one *global batch* of rows. Each rank gets the same number of micro-batches of it;
where rows run short, a micro-batch repeats a row with no weight, so that every collective is met.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

_WINDOW = 32  # global batches whose rows are sorted by length together before they are cut


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows one rank runs at once; `weight` is 0.0 for a filler that trains nothing."""

    rows: tuple[int, ...]
    weight: float = 1.0


def global_batches(
    lengths: Sequence[int], *, seed: int, epoch: int, batch_size: int
) -> list[list[int]]:
    """One epoch's rows, each exactly once, cut into steps.

    Rows are shuffled, then sorted by length within windows of 32 batches, so that the rows of a
    batch are of like length (less padding, ranks that wait less), then the batches are shuffled.

    Args:
        lengths: tokens a row.
        seed: the spec's.
        epoch: from 0.
        batch_size: rows a step (`train.global_batch_size`); the last batch may be smaller.
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
    """Deal a global batch to the ranks: `world` lists of equal length, longest rows first.

    Args:
        size: rows a micro-batch holds at most (`per_device_train_batch_size`).
    """
    rows = sorted(batch, key=lambda row: (-lengths[row], row))
    cut = [MicroBatch(tuple(rows[i : i + size])) for i in range(0, len(rows), size)]
    return _deal(cut, lengths, world)


def packed_batches(
    batch: Sequence[int], lengths: Sequence[int], *, world: int, max_tokens: int
) -> list[list[MicroBatch]]:
    """Deal a global batch as packs of at most `max_tokens` tokens, best fit first.

    Every row stays whole and in one pack; a row longer than `max_tokens` is a pack of its own.
    At least `world` packs are made where there are rows enough, so that no rank idles.
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
    return _deal([MicroBatch(tuple(pack)) for pack in packs], lengths, world)


def _deal(micros: list[MicroBatch], lengths: Sequence[int], world: int) -> list[list[MicroBatch]]:
    shortest = min((row for micro in micros for row in micro.rows), key=lambda r: (lengths[r], r))
    while len(micros) % world:
        micros.append(MicroBatch((shortest,), weight=0.0))
    return [micros[rank::world] for rank in range(world)]
