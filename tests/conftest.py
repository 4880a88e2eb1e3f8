"""Which tests stay together in one process, which begin, and which may be skipped."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import hypothesis
import pytest

from jobspec.queue.queue import Queue
from jobspec.storage import patience

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

TOGETHER = ("tests/integration/shared_fs", "tests/integration/cluster")  # each starts services
# The longest go first, so that processes end together: those that wait, then those that compute.
FIRST = (
    "tests/integration/cluster",
    "tests/integration/test_failures.py",
    "tests/integration/test_end_to_end.py",
    "tests/integration/test_train_modes.py",
    "tests/integration/test_resume.py",
    "tests/project/test_contributing.py",
    "tests/integration",
)


# A busy machine makes any example slow, which says nothing about the code.
hypothesis.settings.register_profile("jobspec", deadline=None)
hypothesis.settings.load_profile("jobspec")


def room(nodeid: str) -> str:
    """What a test shares a process with: its file, or its folder's other files too."""
    file = nodeid.split("::", 1)[0]
    folder = str(PurePosixPath(file).parent)
    return folder if folder in TOGETHER else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        begins = (n for n, path in enumerate(FIRST) if item.nodeid.startswith(path))
        return next(begins, len(FIRST))

    items.sort(key=place)
    if importlib.util.find_spec("vllm") is None:
        reason = "needs vLLM: tests/integration/vllm/create-environment"
        for item in items:
            if item.get_closest_marker("vllm") is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


_unexpected_skips: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In CI every tool is installed, so that only tests of a GPU may be skipped there."""
    expected = "gpu" in report.keywords or hasattr(report, "wasxfail")
    if os.environ.get("CI") == "true" and report.skipped and not expected:
        _unexpected_skips.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unexpected_skips and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _unexpected_skips:
        terminalreporter.section("skipped, which is an error in CI")
        for nodeid in _unexpected_skips:
            terminalreporter.line(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """A file's tests run in one process, since they share what it trained or generated.

    Not xdist's `loadgroup`: as of 3.8 it writes groups into names that pytest 9.2 no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByRoom(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return room(nodeid)

    return ByRoom(config, log)


# A test that injects an error sees it at once; tests of the patience set a limit of their own.
patience.limit_s = 0.0


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    """An empty queue; a file that needs another one defines its own."""
    return Queue.create(tmp_path / "root")
