"""How many rows of each source are used, and how often each is trained on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobspec.errors import DataError
from jobspec.spec.schema import SourceSpec
from worker.data.mixture import Mixture


def mixture(*settings: dict[str, Any], limit: int | None = None, ratio: float = 0.0) -> Mixture:
    made = [SourceSpec(path=f"{n}", name=f"s{n}", **one) for n, one in enumerate(settings)]
    return Mixture(tuple(made), ratio, limit, seed=42)


def positions(*counts: int) -> list[list[int]]:
    """Rows of several sources, at positions that are counted on."""
    starts = [sum(counts[:index]) for index in range(len(counts))]
    return [list(range(start + 1, start + n + 1)) for start, n in zip(starts, counts, strict=True)]


def totals(mixed: Mixture, *counts: int) -> list[int]:
    """The rows of each source in an epoch."""
    times = mixed.repeat_rows(positions(*counts))
    return [sum(times.get(row, 0) for row in rows) for rows in positions(*counts)]


@pytest.mark.parametrize(
    ("settings", "counts", "expected"),
    [
        ([{}, {}], [7, 3], [7, 3]),
        ([{"repeat": 2}, {}], [7, 3], [14, 3]),
        ([{"repeat": 1.5}, {"repeat": 3.25}], [8, 4], [12, 13]),
        ([{"repeat": 0.5}, {}], [8, 4], [8, 4]),  # sampled before
        ([{"weight": 1}, {"weight": 1}], [100, 30], [100, 100]),
        ([{"weight": 0.7}, {"weight": 0.3}], [700, 10], [700, 300]),
        ([{"weight": 9}, {"weight": 1}], [30, 30], [270, 30]),
        ([{"weight": 5}], [30], [30]),
    ],
)
def test_an_epoch_has_the_shares_of_the_settings(
    settings: list[dict[str, Any]], counts: list[int], expected: list[int]
) -> None:
    assert totals(mixture(*settings), *counts) == expected


def test_the_rows_of_a_source_are_repeated_evenly_and_a_seed_decides_which_ones_more() -> None:
    rows = positions(40, 10)
    chosen = []
    for seed in (1, 2):
        sources = tuple(SourceSpec(path=name, name=name, repeat=1.5) for name in ("a", "b"))
        times = Mixture(sources, 0.0, None, seed).repeat_rows(rows)
        assert Counter(times[row] for row in rows[0]) == {1: 20, 2: 20}
        assert Counter(times[row] for row in rows[1]) == {1: 5, 2: 5}
        assert Mixture(sources, 0.0, None, seed).repeat_rows(rows) == times
        chosen.append([row for row in rows[0] if times[row] == 2])
    assert chosen[0] != chosen[1]
    assert chosen[0] != list(range(1, 21))


@pytest.mark.parametrize(
    ("settings", "limit", "selected"),
    [
        ([{"repeat": 0.3}, {}], None, [3, 50]),
        ([{"repeat": 0.01}, {"repeat": 4}], None, [1, 50]),
        ([{}, {}], 30, [5, 25]),
        ([{"repeat": 5}, {}], 50, [5, 25]),
        ([{"weight": 1}, {"weight": 1}], 20, [2, 10]),
    ],
)
def test_rows_are_sampled_before_they_are_read(
    settings: list[dict[str, Any]], limit: int | None, selected: list[int]
) -> None:
    assert mixture(*settings, limit=limit).count_selected([10, 50]) == selected


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    weighted=st.booleans(),
    numbers=st.lists(st.floats(0.2, 6), min_size=5, max_size=5),
    limit=st.one_of(st.none(), st.integers(1, 200)),
)
def test_shares_are_kept_under_a_limit(
    counts: list[int], weighted: bool, numbers: list[float], limit: int | None
) -> None:
    used = numbers[: len(counts)]
    settings = [{"weight" if weighted else "repeat": number} for number in used]
    free = totals(mixture(*settings), *counts)
    found = totals(mixture(*settings, limit=limit), *counts)
    if weighted:
        shares = [number / sum(used) for number in used]
        assert min(n / c for n, c in zip(free, counts, strict=True)) >= 1 - 1e-9
        assert any(n == c for n, c in zip(free, counts, strict=True))
    else:
        exact = [max(1.0, number) * n for number, n in zip(used, counts, strict=True)]
        shares = [one / sum(exact) for one in exact]
    if limit is None or sum(free) <= limit:
        assert found == free
    else:
        assert sum(found) <= limit + len(counts)
    for count, share in zip(found, shares, strict=True):
        assert abs(count - share * sum(found)) <= 1 + len(counts) / 2


def test_weights_that_would_repeat_rows_thousands_of_times_are_refused() -> None:
    mixed = mixture({"weight": 1}, {"weight": 50})
    with pytest.raises(DataError, match="each row of `s1` is trained on 2,500 times") as caught:
        mixed.repeat_rows(positions(100, 2))
    assert caught.value.place == "$.data.sources[1].weight"
    assert caught.value.hint


def test_a_source_without_rows_to_train_on_does_not_count() -> None:
    assert totals(mixture({"weight": 1}, {"weight": 1}), 10, 0) == [10, 0]
    assert totals(mixture({"repeat": 2}, {}), 0, 4) == [0, 4]
