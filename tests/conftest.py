"""Which tests stay together where several processes run them."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
TOGETHER = ("integration/shared_fs", "integration/cluster")  # each starts services, once


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A file's tests run in one process, since they share what it trained or generated."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        file = item.path.relative_to(HERE).as_posix()
        group = next((name for name in TOGETHER if file.startswith(f"{name}/")), file)
        item.add_marker(pytest.mark.xdist_group(group))
