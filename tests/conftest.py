"""Which tests stay together where several processes run them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

TOGETHER = ("tests/integration/shared_fs", "tests/integration/cluster")  # each starts services


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """A file's tests run in one process, since they share what it trained or generated.

    Not xdist's `loadgroup`: as of 3.8 it writes groups into names that pytest 9.2 no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByRoom(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            folder = str(PurePosixPath(file).parent)
            return folder if folder in TOGETHER else file

    return ByRoom(config, log)
