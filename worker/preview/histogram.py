"""Counts lengths in a few bins, as people read them."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from itertools import pairwise

from jobspec.records.overview import HistogramBin

_MOST_BINS = 10
_WIDE = 16  # from this ratio of longest to shortest on, each bin is twice as wide as the one before


def count(lengths: Sequence[int]) -> tuple[HistogramBin, ...]:
    """At most ten bins from the shortest to the longest, without gaps.

    If the longest row is 16 times as long as the shortest, the bins end at powers of two and the
    lowest ones may be merged; otherwise they are equally wide.
    """
    if not lengths:
        return ()
    ordered = sorted(lengths)
    low, high = ordered[0], ordered[-1]
    edges = _powers(low, high) if high >= _WIDE * max(low, 1) else _equal(low, high)
    bins: list[HistogramBin] = []
    start = 0
    for least, above in pairwise(edges):
        end = bisect.bisect_left(ordered, above)
        bins.append(HistogramBin(least=least, most=above - 1, rows=end - start))
        start = end
    return tuple(bins)


def _powers(low: int, high: int) -> list[int]:
    first = max(low, 1).bit_length() - 1
    last = high.bit_length()
    edges = [1 << power for power in range(first, last + 1)]
    edges = edges[-_MOST_BINS - 1 :]
    return [min(low, edges[0]), *edges[1:]]


def _equal(low: int, high: int) -> list[int]:
    width = _round_up(max(1, math.ceil((high - low + 1) / (_MOST_BINS - 2))))
    first = low // width * width
    return list(range(first, high + width + 1, width))


def _round_up(width: int) -> int:
    """The least number of the form 1, 2 or 5 times a power of ten that is not below `width`."""
    power = 10 ** (len(str(width)) - 1)
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width)
