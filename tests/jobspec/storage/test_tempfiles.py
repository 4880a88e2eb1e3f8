"""jobspec.storage.tempfiles: temporary names, and which of them are left over."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobspec.storage import fs, tempfiles
from tests.support.faulty_os import fork
from tests.support.paths import stems
from worker.process import rank_launcher


def test_a_child_in_another_pid_namespace_has_another_id_space(tmp_path: Path) -> None:
    told = tmp_path / "told"

    def grandchild() -> None:
        real = Path("/proc/thread-self/ns/pid").stat().st_ino
        told.write_text(f"{tempfiles.pid_space()} {real}")

    def child() -> None:
        tempfiles.pid_space()
        if rank_launcher.enter_pid_namespace():
            os.waitpid(fork(grandchild), 0)

    assert os.waitpid(fork(child), 0)[1] == 0
    if not told.exists():
        pytest.skip("PID namespaces are not allowed here")
    space, real = told.read_text().split()
    assert space == real != str(tempfiles.pid_space())


def test_sweep_removes_only_files_of_dead_writers(tmp_path: Path) -> None:
    living = tempfiles.beside(tmp_path / "file")
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from jobspec.storage import tempfiles;"
            "print(tempfiles.beside(pathlib.Path(sys.argv[1])).name)",
            str(tmp_path / "file"),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(fs.__file__).parents[2],
    )
    dead = tmp_path / child.stdout.strip()
    here = f"-{os.getpid()}-"
    elsewhere = tmp_path / living.name.replace(tempfiles.host(), "othernode").replace(here, "-1-")
    old = tmp_path / re.sub(r"-[0-9]{10}-", f"-{int(time.time()) - 90000}-", elsewhere.name)
    dead.mkdir()
    (dead / "spec.json").touch()
    for path in (living, elsewhere, old, tmp_path / ".nfs01", tmp_path / "file"):
        path.touch()
    assert sorted(fs.sweep(tmp_path)) == sorted([dead.name, old.name])
    assert stems(tmp_path) == sorted([living.name, elsewhere.name, ".nfs01", "file"])


def test_temporary_names_are_short_enough(tmp_path: Path) -> None:
    assert len(tempfiles.beside(tmp_path / ("x" * 239)).name) < 240
