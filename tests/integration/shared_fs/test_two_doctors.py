"""The doctor on a real network filesystem, run on two mounts at once as on two hosts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import environment

pytestmark = pytest.mark.shared_fs


def doctors(roots: tuple[Path, Path]) -> list[Any]:
    """What two doctors that wait for each other say."""
    command = [sys.executable, "-m", "jobspec.cli", "doctor", "--json", "--wait-for", "2"]
    started = [
        subprocess.Popen(
            [*command, "--peer", name, "--root", str(root)],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, root in zip("ab", roots, strict=True)
    ]
    return [json.loads(process.communicate(timeout=120)[0]) for process in started]


def test_two_mounts_are_measured_against_each_other(roots: tuple[Path, Path]) -> None:
    roots[0].mkdir(0o755, exist_ok=True)
    for told in doctors(roots):
        assert told["place"]["filesystem"].startswith("fuse") and not told["place"]["local"]
        found = told["measured"]["across"]
        assert sorted(found["members"]) == ["a", "b"] and found["silent"] == []
        (race,) = found["races"]
        assert (race["doubled"], race["unclaimed"]) == (0, 0)
        assert sum(race["won"]) == race["files"]
        pairs = {(lag["kind"], lag["actor"], lag["watcher"]) for lag in found["lags"]}
        assert pairs == {(kind, "a", "b") for kind in ("created", "renamed away", "replaced")}
        assert all(lag["longest_s"] < 1 and not lag["missed"] for lag in found["lags"])
        assert found["noticed"] == {"a": False, "b": False}  # inotify sees one mount only
        assert told["measured"]["server_clock"]["whole_seconds"]
        assert told["measured"]["broken"] == []
        assert told["advice"]["notifications"] is False
        assert told["advice"]["lease_s"] == 150
    assert list(roots[0].iterdir()) == []
