"""docs/training.md says what each family gets; `python -m benchmarks.families` writes the table."""

from __future__ import annotations

import os
from collections import Counter

import pytest

pytest.importorskip("torch")


from benchmarks import families
from tests.support.paths import REPOSITORY

TABLE = families.read_table((REPOSITORY / "docs" / "training.md").read_text())
ALL = os.environ.get("JOBSPEC_ALL_FAMILIES") == "1"  # minutes
SAMPLE = families.FAMILIES if ALL else families.FAMILIES[::5]


def test_the_table_names_every_family_once() -> None:
    assert sorted(TABLE) == list(families.FAMILIES)
    counts = Counter(TABLE.values())
    assert counts[families.NOT_BUILT] <= 16
    assert counts[families.REFUSED] <= 3


@pytest.mark.parametrize("family", SAMPLE)
def test_the_table_is_current(family: str) -> None:
    result = families.examine(family)
    assert result.gets == TABLE[family], result.why
