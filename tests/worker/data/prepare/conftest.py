"""The rows that the tests of prepare begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.prepared import sums, write_rows


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", sums(40))
