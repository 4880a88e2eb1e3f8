"""Which rows of a mixture are used, and how often each is trained on.

`repeat` below 1 samples the rows of a source before anything else, so that held-out rows are in
proportion to what is trained. `repeat` above 1 and `weight` repeat rows after the split: held-out
rows are never repeated. All choices depend on seed, rows and settings alone, and are the same in
every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jobspec.errors import DataError
from jobspec.spec.schema import SourceSpec
from worker.data import split

_MOST_REPEATS = 1000


@dataclass(frozen=True)
class Mixture:
    """The shares of some sources.

    Attributes:
        sources: their settings, with names.
        ratio: the share of held-out rows.
        limit: the maximum number of rows to train on, repeats counted.
    """

    sources: tuple[SourceSpec, ...]
    ratio: float
    limit: int | None
    seed: int

    def count_selected(self, rows: Sequence[int]) -> list[int]:
        """How many of its rows each source gives to training and to the held-out rows.

        Args:
            rows: the number of rows of each source.
        """
        shares = [min(1.0, source.repeat or 1.0) for source in self.sources]
        if self.limit is not None:
            epoch = sum(share * n for share, n in zip(self._factors(rows), rows, strict=True))
            scale = min(1.0, self.limit / (1 - self.ratio) / epoch)
            shares = [share * scale for share in shares]
        # 0.3 of 10 rows are 3, not 3.0000000000000004
        return [max(1, math.ceil(s * n - 1e-9)) for s, n in zip(shares, rows, strict=True)]

    def repeat_rows(self, train: Sequence[Sequence[int]]) -> dict[int, int]:
        """How often each row is trained on in an epoch.

        Args:
            train: the positions of each source's rows to train on.

        Raises:
            DataError: the weights need more repeats than make sense.
        """
        times: dict[int, int] = {}
        for index, total in enumerate(self._epoch_rows([len(rows) for rows in train])):
            rows, name = train[index], self.sources[index].name
            whole, rest = divmod(total, max(1, len(rows)))
            if whole > _MOST_REPEATS:
                raise DataError(
                    f"with these weights each row of `{name}` is trained on {whole:,} times",
                    place=f"$.data.sources[{index}].weight",
                    hint="lower its weight, or add rows to its file",
                )
            more = split.choose_rows([(n, b"%d" % k) for k, n in enumerate(rows)], rest, self.seed)
            times |= {row: whole + (row in more) for row in rows}
        return {row: count for row, count in times.items() if count}

    def _epoch_rows(self, rows: Sequence[int]) -> list[int]:
        """The number of rows of each source in an epoch, given those that are left to train on."""
        factors = [
            factor if source.weight is not None else max(1.0, factor)  # below 1: sampled before
            for source, factor in zip(self.sources, self._factors(rows), strict=True)
        ]
        exact = [factor * n for factor, n in zip(factors, rows, strict=True)]
        if self.limit is None or sum(exact) <= self.limit:
            return [math.floor(count + 0.5) for count in exact]
        scale = self.limit / sum(exact)
        return _round_to(self.limit, [count * scale for count in exact])

    def _factors(self, rows: Sequence[int]) -> list[float]:
        """How often the rows of each source are to be trained on, without a limit.

        With weights, the source with the most rows for its weight is trained on once, and the
        others are repeated until the shares are right: no row is left out.
        """
        if self.sources[0].weight is None:
            return [source.repeat or 1.0 for source in self.sources]
        weights = [source.weight or 0.0 for source in self.sources]
        unit = max(n / weight for n, weight in zip(rows, weights, strict=True))
        return [weight * unit / n if n else 0.0 for n, weight in zip(rows, weights, strict=True)]


def _round_to(total: int, exact: Sequence[float]) -> list[int]:
    """Whole numbers near `exact` whose sum is `total`: the largest remainders are rounded up."""
    counts = [math.floor(count) for count in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for index in by_rest[: total - sum(counts)]:
        counts[index] += 1
    return counts
