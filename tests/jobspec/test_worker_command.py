"""The environment in which the worker's programs run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from jobspec import worker_command
from tests.support.paths import REPOSITORY


@pytest.mark.parametrize("name", ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONUSERBASE"])
def test_another_pythons_packages_do_not_reach_the_workers_programs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv(name, str(tmp_path))
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec env\n")
    program.chmod(0o755)
    said = worker_command.run("any", python=[str(program)]).stdout
    assert f"{name}=" not in said and "PATH=" in said


def test_the_directory_of_this_package_stays_on_the_path() -> None:
    path = os.pathsep.join(["/opt/python/3.9/site-packages", str(REPOSITORY), ""])
    kept = worker_command.python_environment({"PYTHONPATH": path, "LANG": "C"})
    assert kept == {"PYTHONPATH": str(REPOSITORY), "LANG": "C"}


def test_a_worker_leaves_another_pythons_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.__main__ import leave_other_python

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONHOME", "/opt/python/3.9")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = [*sys.path]
    leave_other_python()
    assert not {"PYTHONPATH", "PYTHONHOME"} & os.environ.keys()
    assert sys.path == before[1:]
