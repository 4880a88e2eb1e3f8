"""Tests of failures obey the permissions of files, also where root runs them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.privileges import permissions_count


@pytest.fixture(autouse=True)
def as_an_ordinary_user() -> Iterator[None]:
    with permissions_count():
        yield
